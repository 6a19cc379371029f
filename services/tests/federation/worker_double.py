"""Real data ports on loopback, with sessions made by hand, and a stand-in for the rest of a worker."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from synergos.federation.port import create_app
from synergos.federation.sessions import Session, Sessions, Split
from synergos.jobs import Action, Layout, Node


class Server:
    """An application on a port of loopback, any free one or the given one, in a thread."""

    def __init__(self, app: Any, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", port))
        self.port = int(self.socket.getsockname()[1])
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        self._thread = threading.Thread(target=self._server.run, args=([self.socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()


@dataclass
class Worker:
    """A worker as the orchestrator sees it: `poll_reply` and `data` are what it would have loaded.

    Its data port is the real one: what it answers to messages is what a worker answers.
    """

    participant_id: str
    data: dict[str, Split] = field(default_factory=dict)
    poll_reply: tuple[int, dict[str, Any]] = (200, {})
    busy_polls: int = 0
    initialised: list[dict[str, Any]] = field(default_factory=list)
    terminated: int = 0
    recorded: dict[str, tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=dict)
    sessions: Sessions = field(default_factory=Sessions)

    def start(self) -> None:
        """Listen: at first on free ports, then on the same ones again."""
        self.port = Server(create_app(self.sessions), self.port.port if hasattr(self, "port") else 0)
        self.rest = Server(self._rest(), self.rest.port if hasattr(self, "rest") else 0)

    def stop(self) -> None:
        """Vanish, as a killed worker does: its sessions are gone, its data and outputs are not."""
        self.port.stop()
        self.rest.stop()
        for key in self.sessions.keys():  # noqa: SIM118 (no mapping)
            self.sessions.close(key)

    @property
    def node(self) -> Node:
        return Node(
            participant_id=self.participant_id,
            host="127.0.0.1",
            command_port=self.rest.port,
            data_port=self.port.port,
        )

    def open(
        self, token: str, action: Action = "classify", key: tuple[str, str, str, str] = ("c", "p", "e", "r")
    ) -> Session:
        def record(meta: str, y_pred: NDArray[Any], y_score: NDArray[Any]) -> dict[str, Any]:
            self.recorded[meta] = (y_pred, y_score)
            return {"statistics": {"rows": len(y_pred)}, "res_path": f"/worker/outputs/{meta}"}

        session = Session(key, self.participant_id, token, action, self.data, record)
        self.sessions.open(session)
        return session

    def _rest(self) -> FastAPI:
        app = FastAPI()

        @app.post("/worker/poll/{c}/{p}")
        def poll(c: str, p: str) -> JSONResponse:
            return JSONResponse({"data": {"jobs": 1}}, status_code=202)

        @app.get("/worker/poll/{c}/{p}")
        async def polled(c: str, p: str, request: Request) -> JSONResponse:
            assert (await request.json())["tags"]["train"]
            if self.busy_polls:
                self.busy_polls -= 1
                return JSONResponse({"message": "still loading"}, status_code=406)
            status, data = self.poll_reply
            return JSONResponse({"data": data} if status == 200 else data, status_code=status)

        @app.post("/worker/initialise/{c}/{p}/{e}/{r}")
        async def initialise(c: str, p: str, e: str, r: str, request: Request) -> JSONResponse:
            body = await request.json()
            Layout.model_validate(body["layout"])
            self.initialised.append(body)
            self.open(body["token"], body["action"], (c, p, e, r))
            return JSONResponse({"data": {"is_live": True}}, status_code=201)

        @app.post("/worker/terminate/{c}/{p}/{e}/{r}")
        def terminate(c: str, p: str, e: str, r: str) -> JSONResponse:
            self.terminated += 1
            self.sessions.close((c, p, e, r))
            return JSONResponse({"data": {"is_live": False}})

        return app


def separable(rows: int, features: int, classes: int, seed: int) -> Split:
    """Rows whose class follows from their features: `classes` 2 gives labels (rows, 1), more give indexes (rows,)."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(features, classes))
    X = generator.normal(size=(rows, features)).astype(np.float32)
    index = (X @ directions).argmax(axis=1)
    return Split(X, index.astype(np.int64) if classes > 2 else index.astype(np.float32)[:, None])


def linear(features: int, outputs: int, activation: str | None) -> list[dict[str, Any]]:
    """A model of one Linear layer."""
    structure = {"bias": True, "in_features": features, "out_features": outputs}
    return [{"is_input": True, "l_type": "Linear", "structure": structure, "activation": activation}]
