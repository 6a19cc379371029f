"""REST client of one participant's worker."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from synergos.errors import GridFailure
from synergos.federation.line import Answer, Cancellation, Line
from synergos.jobs import METAS, Action, Alignment, Node, Party, RunJob
from synergos.logs import headers

_SLOWEST_ASKING = 1.0
# Seconds to free a worker that does not answer: it was given up already, or it has nothing to lose.
_FREEING = httpx.Timeout(5.0, connect=2.0)


class WorkerClient:
    """Calls the control port of a worker; every failure is a `GridFailure` that names the participant.

    A worker that vanishes in the middle of a call and comes back is asked again.

    Args:
        node: whose worker it is, and where it listens.
        timeout: seconds that one request may take, loading of data included.
        grace: seconds that a worker which has answered may be away.
        cancellation: of the job that the calls are for.
    """

    def __init__(
        self, node: Node, timeout: float, grace: float = 60.0, cancellation: Cancellation | None = None
    ) -> None:
        self._node = node
        self._timeout = timeout
        self._url = f"http://{node.host}:{node.command_port}/worker"
        self._cancellation = cancellation or Cancellation()
        # Of the job that makes this client: its worker may have to be freed long after it, by another thread.
        self._trace = headers()
        health = f"http://{node.host}:{node.data_port}/health"
        self._line = Line(node.participant_id, self._url, health, grace, self._cancellation)

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    @property
    def participant_id(self) -> str:
        """Whose worker it is."""
        return self._node.participant_id

    def poll(self, collab_id: str, project_id: str, action: Action, tags: dict[str, Any]) -> Any:
        """Have the tagged data loaded and return {headers, schemas, metadata} once that is done."""
        path = f"/poll/{_path(collab_id, project_id)}"
        body = {"action": action, "tags": tags}
        deadline = time.monotonic() + self._timeout
        self._data(self._send("POST", path, body))
        pause = 0.05
        while True:
            answer = self._send("GET", path, body)
            if answer.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.NOT_ACCEPTABLE):
                return self._data(answer)
            # One that is at it takes no notice; one that was restarted meanwhile has forgotten the poll.
            self._data(self._send("POST", path, body))
            if time.monotonic() > deadline:
                raise self._failure(f"was still loading its data after {self._timeout:.0f} s")
            self._cancellation.pause(pause)
            pause = min(2 * pause, _SLOWEST_ASKING)

    def initialise(self, job: RunJob, party: Party, token: str) -> None:
        """Open a session of the combination, behind `token` on the data port.

        A worker that has not prepared the data has it prepared first: in a cluster, another grid's was polled.
        """
        alignment = party.alignment or Alignment()
        path = f"/initialise/{_combination(job)}"
        body = {
            "id": self._node.participant_id,
            "host": self._node.host,
            "port": self._node.data_port,
            "log_msgs": self._node.log_msgs,
            "verbose": self._node.verbose,
            "action": job.action,
            "tags": party.tags.model_dump(),
            "alignments": {meta: getattr(alignment, meta).model_dump() for meta in METAS},
            "layout": alignment.layout.model_dump(),
            "token": token,
        }
        answer = self._send("POST", path, body)
        if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.NOT_ACCEPTABLE):
            self.poll(job.collab_id, job.project_id, job.action, party.tags.model_dump())
            answer = self._send("POST", path, body)
        self._data(answer)

    def terminate(self, job: RunJob) -> str | None:
        """Close the session of the combination and return None, or why that could not be done.

        Never raises: it runs when something else may have failed already.
        """
        try:
            with httpx.Client(timeout=_FREEING, trust_env=False, verify=False) as http:
                response = http.post(f"{self._url}/terminate/{_combination(job)}", json={}, headers=self._trace)
            if response.status_code not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                self._data(Answer(response.status_code, bytearray(response.content)))
        except (httpx.HTTPError, GridFailure) as error:
            return str(error) or type(error).__name__
        return None

    def _send(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        fields = {"Content-Type": "application/json", **self._trace}
        return self._line.ask(method, path, [json.dumps(body).encode()], fields, self._timeout)

    def _data(self, answer: Answer) -> Any:
        try:
            body = json.loads(answer.body)
            if 200 <= answer.status < 300:
                return body["data"]
            said = str(body["message"])
        except (ValueError, KeyError, TypeError):
            said = f"HTTP status {answer.status} without a message"
        raise self._failure(f"says: {said}")

    def _failure(self, what: str) -> GridFailure:
        return GridFailure(f"Participant {self.participant_id} {what}")


def _path(*segments: str) -> str:
    return "/".join(quote(segment, safe="") for segment in segments)


def _combination(job: RunJob) -> str:
    return _path(job.collab_id, job.project_id, job.expt_id, job.run_id)
