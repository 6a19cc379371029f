"""The apps that stock Flower runs: the plain peers' training under FedAvg. Carried into a Flower app by `stock.py`.

The workers evaluate the weights that they are sent before they train on them, as ours do, so that a round is one
exchange here too.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from benchapp.measure import Mark
from benchapp.plain import Plain, Rows
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train for one round."""
    rows: Rows = dict(np.load(str(context.node_config["rows"])))
    plain = Plain(rows["train_X"].shape[1], int(context.run_config["hidden"]))
    weights, loss = plain.turn(message.content["arrays"].to_numpy_ndarrays()[0].copy(), rows)
    metrics = MetricRecord({"num-examples": len(rows["train_X"]), "loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord([weights]), "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; a line per round goes into the file that the environment names."""
    config = context.run_config
    path = Path(os.environ["BENCH_MARKS"])
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=int(config["participants"]),
        min_available_nodes=int(config["participants"]),
    )

    def note(*_: object) -> None:
        with path.open("a") as file:
            file.write(repr(list(Mark.now())) + "\n")

    start = Plain(int(config["features"]), int(config["hidden"])).weights
    strategy.start(grid, ArrayRecord([start]), num_rounds=int(config["rounds"]), evaluate_fn=note)
