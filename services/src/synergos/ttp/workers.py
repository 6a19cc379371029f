"""REST client of one participant's worker."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import httpx

from synergos.errors import GridFailure
from synergos.jobs import METAS, Action, Alignment, Node, Party, RunJob
from synergos.logs import get_logger

_CONNECT = 5.0
_SLOWEST_ASKING = 1.0


class WorkerClient:
    """Calls the control port of a worker; every failure is a `GridFailure` that names the participant.

    Args:
        node: whose worker it is, and where it listens.
        timeout: seconds that one request may take, loading of data included.
    """

    def __init__(self, node: Node, timeout: float) -> None:
        self._node = node
        self._timeout = timeout
        self._http = httpx.Client(
            base_url=f"http://{node.host}:{node.command_port}/worker",
            timeout=httpx.Timeout(timeout, connect=_CONNECT),
            trust_env=False,
        )

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def poll(self, collab_id: str, project_id: str, action: Action, tags: dict[str, Any]) -> Any:
        """Have the tagged data loaded and return {headers, schemas, metadata} once that is done."""
        path = f"/poll/{_path(collab_id, project_id)}"
        deadline = time.monotonic() + self._timeout
        self._call("POST", path, {"action": action, "tags": tags})
        pause = 0.05
        while True:
            response = self._send("GET", path, {"action": action, "tags": tags})
            if response.status_code != httpx.codes.NOT_ACCEPTABLE:
                return self._data(response)
            if time.monotonic() > deadline:
                raise self._failure(f"was still loading its data after {self._timeout:.0f} s")
            time.sleep(pause)
            pause = min(2 * pause, _SLOWEST_ASKING)

    def initialise(self, job: RunJob, party: Party, token: str) -> None:
        """Open a session of the combination, behind `token` on the data port."""
        alignment = party.alignment or Alignment()
        self._call(
            "POST",
            f"/initialise/{_combination(job)}",
            {
                "id": self._node.participant_id,
                "host": self._node.host,
                "port": self._node.data_port,
                "log_msgs": self._node.log_msgs,
                "verbose": self._node.verbose,
                "action": job.action,
                "tags": party.tags.model_dump(),
                "alignments": {meta: getattr(alignment, meta).model_dump() for meta in METAS},
                "names": {"X": alignment.layout.X, "y": alignment.layout.y},
                "scaling": alignment.layout.scaling,
                "token": token,
            },
        )

    def terminate(self, job: RunJob) -> None:
        """Close the session of the combination. Never raises: it runs when something else may have failed already."""
        try:
            response = self._send("POST", f"/terminate/{_combination(job)}", {}, timeout=10)
            if response.status_code not in (httpx.codes.OK, httpx.codes.NOT_FOUND):
                self._data(response)
        except GridFailure as error:
            get_logger("ttp.workers").warning("worker not freed", reason=error.message)

    def _call(self, method: str, path: str, body: dict[str, Any]) -> Any:
        return self._data(self._send(method, path, body))

    def _send(self, method: str, path: str, body: dict[str, Any], timeout: float | None = None) -> httpx.Response:
        limit = httpx.USE_CLIENT_DEFAULT if timeout is None else timeout
        try:
            return self._http.request(method, path, json=body, timeout=limit)
        except httpx.ConnectTimeout:
            raise self._failure(f"cannot be reached at {self._http.base_url}") from None
        except httpx.TimeoutException:
            raise self._failure(f"did not answer {method} {path} in time") from None
        except httpx.TransportError as error:
            raise self._failure(f"cannot be reached at {self._http.base_url}: {error}") from None

    def _data(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
            if response.is_success:
                return body["data"]
            said = str(body["message"])
        except (ValueError, KeyError, TypeError):
            said = f"HTTP status {response.status_code} without a message"
        raise self._failure(f"says: {said}")

    def _failure(self, what: str) -> GridFailure:
        return GridFailure(f"Participant {self._node.participant_id} {what}")


def _path(*segments: str) -> str:
    return "/".join(quote(segment, safe="") for segment in segments)


def _combination(job: RunJob) -> str:
    return _path(job.collab_id, job.project_id, job.expt_id, job.run_id)
