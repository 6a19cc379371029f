"""The peer of a federated round: a worker without Flower, sessions or checks that carries the same bytes.

`python plain.py ADDRESS PORT EXAMPLE PARTICIPANT` serves two routes for one participant of the example:
`/echo` answers with what it was sent; `/round` evaluates the weights it was sent, trains as a worker does, and answers
with the new weights. A body is the weights as raw float32, padded to the length of a federated message.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from synergos.demo.compare import Study
from synergos.demo.settings import Settings
from synergos.federation import training
from synergos.federation.layers import Network


def settings(example: Path) -> Settings:
    """Return settings with the two participants of `example`; their addresses do not matter here."""
    names = ("worker_1", "worker_2")
    participants = [
        {"participant_id": name, "host": "localhost", "data": f"data{number}"} for number, name in enumerate(names, 1)
    ]
    return Settings.model_validate(
        {"host": "localhost", "project_id": example.name, "example": example, "participants": participants}
    )


def create_app(example: Path, participant: str) -> FastAPI:
    """Return the application over one participant's rows."""
    study = Study.of(settings(example))
    own = study.sets[participant]
    objective = study.objective(own["train"].split)
    train, evaluate = (training.Labelled.of(own[meta].split, objective, meta) for meta in ("train", "evaluate"))
    network = Network(study.model)
    app = FastAPI()

    def work(raw: bytes) -> bytes:
        weights = network.state_dict()
        size = 4 * sum(weight.numel() for weight in weights.values())
        flat, start = torch.from_numpy(np.frombuffer(raw[:size], dtype=np.float32).copy()), 0
        for weight in weights.values():
            weight.copy_(flat[start : start + weight.numel()].view_as(weight))
            start += weight.numel()
        training.evaluate(network, evaluate, objective)
        training.fit(
            network,
            train,
            study.parameters,
            objective,
            training.Turn(1, 2),
            mu=0.0,
            is_open=lambda: True,
        )
        trained = b"".join(weight.numpy().tobytes() for weight in network.state_dict().values())
        return trained + raw[size:]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    @app.post("/round")
    async def one_round(request: Request) -> Response:
        return Response(await asyncio.to_thread(work, await request.body()))

    return app


def main() -> None:
    """Serve until terminated."""
    _, address, port, example, participant = sys.argv
    app = create_app(Path(example), participant)
    uvicorn.run(app, host=address, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
