"""The peer of a federated round: plain HTTP that carries as many bytes to the same training.

It lives in the process of a real worker, on a port of its own, so that 32 of both fit into one machine, with the same
libraries and limits. A body is the weights as raw float32, padded to the length of a federated message or reply.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from fastapi import FastAPI, Request, Response
from measure import Mark, Spans, Turn
from plain import Plain, Rows, Weights, mean
from synergos.federation.sessions import Sessions

PORT = 5900
# What a worker does between decoding a message and encoding its reply: functions of `synergos.federation.training`.
WORK = ("load_record", "evaluate", "fit", "to_record")


def create_app(sessions: Sessions) -> FastAPI:
    """Return the application of one participant, over the rows of the session that is open when it is prepared."""
    app = FastAPI()
    prepared: list[tuple[Plain, Rows]] = []

    spans = Spans()

    def work(body: bytes, length: int) -> Response:
        plain, rows = prepared[0]
        trained, loss = plain.turn(np.frombuffer(body, np.float32, plain.size).copy(), rows)
        return Response(trained.tobytes().ljust(length, b"\0"), headers={"loss": repr(loss)})

    @app.post("/prepare/{hidden}")
    def prepare(hidden: int) -> Response:
        data = sessions.get(sessions.keys()[0]).data
        rows = {
            f"{meta}_{side}": np.array(getattr(data[meta], side)) for meta in ("train", "evaluate") for side in "Xy"
        }
        prepared[:] = [(Plain(rows["train_X"].shape[1], hidden), rows)]
        file = io.BytesIO()
        np.savez(file, **rows)
        return Response(file.getvalue())

    @app.post("/echo/{length}")
    async def echo(length: int, request: Request) -> Response:
        return Response((await request.body())[:length])

    @app.post("/round/{length}")
    async def one_round(length: int, request: Request) -> Response:
        return await asyncio.to_thread(work, await request.body(), length)

    @app.post("/spans")
    def start_spans() -> None:
        from synergos.federation import codec, training

        for owner, names in {codec: ("decode", "encode"), training: WORK}.items():
            for name in names:
                spans.watch(owner, name)
        spans.watch(Plain, "turn")

    @app.get("/spans")
    def read_spans() -> dict[str, float]:
        return spans.seconds

    return app


class Peers:
    """The other side: an HTTP client and a thread per participant.

    Args:
        addresses: of the workers.
    """

    def __init__(self, addresses: list[str]) -> None:
        self._clients = [httpx.Client(base_url=f"http://{address}:{PORT}", timeout=120) for address in addresses]
        self._pool = ThreadPoolExecutor(len(addresses))

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for client in self._clients:
            client.close()

    def prepare(self, hidden: int) -> list[Rows]:
        """Have every participant take the rows of its worker's open session; return them."""
        return [dict(np.load(io.BytesIO(self._post(client, f"/prepare/{hidden}").content))) for client in self._clients]

    def rounds(self, route: str, count: int, weights: Weights, lengths: tuple[int, int]) -> tuple[Turn, float]:
        """Play `count` rounds and return the figures and the last mean loss.

        Args:
            route: `round` or `echo`.
            lengths: bytes of the bodies of requests and replies.
        """
        path = f"/{route}/{lengths[1]}"
        marks, losses = [], [0.0]
        for _ in range(count):
            body = weights.tobytes().ljust(lengths[0], b"\0")
            replies = list(self._pool.map(lambda client, body=body: self._post(client, path, body), self._clients))
            weights = mean([np.frombuffer(reply.content, np.float32, weights.size) for reply in replies])
            losses = [float(reply.headers.get("loss", 0)) for reply in replies]
            marks.append(Mark.now())
        return Turn.of(marks), sum(losses) / len(losses)

    def start_spans(self) -> None:
        """Have the participants' processes take the time of what a worker does with a message."""
        for client in self._clients:
            self._post(client, "/spans")

    def spans(self) -> dict[str, float]:
        """Return seconds per kind of work so far, means over the participants."""
        found = [client.get("/spans").json() for client in self._clients]
        return {name: sum(each.get(name, 0) for each in found) / len(found) for name in found[0]}

    @staticmethod
    def _post(client: httpx.Client, route: str, body: bytes = b"") -> httpx.Response:
        return client.post(route, content=body).raise_for_status()
