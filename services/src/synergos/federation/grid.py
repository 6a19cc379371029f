"""A Flower grid that reaches long-lived workers directly over HTTP."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import NoReturn

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from synergos.errors import Cancelled, GridFailure, SynergosError, Unreachable
from synergos.federation import codec, identity
from synergos.federation.line import Answer, Cancellation, Line
from synergos.logs import carry, get_logger

# Sessions that one message may cost: a worker that loses more has another trouble than a restart.
_RENEWALS = 3
_PAUSE = 1.0


@dataclass(frozen=True)
class Endpoint:
    """The data port of one participant's worker, and the token of the session that is open there."""

    participant_id: str
    url: str
    token: str


@dataclass(frozen=True)
class Lost:
    """A participant that did not answer a message, and why."""

    node_id: int
    error: Unreachable


class DirectGrid(Grid):
    """Flower's grid over the workers' data ports.

    Node ids are 1, 2, … in the order of `endpoints`. A message is sent again when its connection breaks; workers answer
    a repeated message with the reply they already have. A worker that has lost its session, because it was restarted,
    gets a new one first. One that stays away for longer than `grace` is lost: it counts as absent until it is back,
    which is looked for in the background.

    Args:
        endpoints: the participants.
        grace: seconds that a worker may be away.
        renew: opens the session of a node again, with its token; without it a lost session is a failure.
        absent: nodes that are absent from the start, and why.
        cancellation: of the job that this grid serves.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        grace: float = 60.0,
        renew: Callable[[int], None] | None = None,
        absent: Mapping[int, Unreachable] | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        identity.adopt()
        self._endpoints = dict(enumerate(endpoints, start=1))
        self._cancellation = cancellation or Cancellation()
        self._renew = renew
        self._lines = {
            node: Line(endpoint.participant_id, endpoint.url, f"{endpoint.url}/health", grace, self._cancellation)
            for node, endpoint in self._endpoints.items()
        }
        # One thread per worker, which alone uses its line: it is closed when the last request is through.
        self._lanes = {node: ThreadPoolExecutor(1, f"grid-{node}") for node in self._endpoints}
        # The last header that a node was sent in full: of later ones it is told the difference.
        self._told: dict[int, bytes] = {}
        self._answers: queue.SimpleQueue[Message | Lost | Exception] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._absent: dict[int, Unreachable] = {}
        self._cancellation.on_cancel(self._wake)
        for line in self._lines.values():
            line.answered = True  # when it opened the session
        for node, error in (absent or {}).items():
            self._lose(node, error)

    def name(self, node_id: int) -> str:
        """Return the participant behind a node id."""
        return self._endpoints[node_id].participant_id

    def cancel(self, reason: str) -> None:
        """Make the running exchange, and every later one, raise `Cancelled`. Callable from any thread."""
        self._cancellation.cancel(reason)

    def close(self) -> None:
        """Let go of the connections, without waiting for requests that are still open."""
        self._closed.set()
        for node, lane in self._lanes.items():
            lane.submit(self._lines[node].close)
            lane.shutdown(wait=False)

    @property
    def participants(self) -> dict[int, str]:
        """All node ids and their participants, the absent ones too."""
        return {node: endpoint.participant_id for node, endpoint in self._endpoints.items()}

    @property
    def absent(self) -> dict[int, Unreachable]:
        """The nodes that are absent now, and why."""
        return dict(self._absent)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes that are not absent."""
        return [node for node in self._endpoints if node not in self._absent]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def exchange(self, messages: Iterable[Message], timeout: float | None) -> Iterator[Message | Lost]:
        """Send each message to its node and yield what becomes of them, as it comes.

        Args:
            timeout: seconds that a participant may take.

        Raises:
            GridFailure: a participant refuses or gives nonsense; the others are not waited for.
            Cancelled: the work was called off.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        parts: dict[int, tuple[bytes, Sequence[memoryview]]] = {}
        answers = self._answers = queue.SimpleQueue()
        self._cancellation.check()
        waiting = 0
        for message in messages:
            # A round gives all its messages one content.
            key = id(message.content)
            if key not in parts:
                parts[key] = codec.split(message.content)
            lane = self._lanes[message.metadata.dst_node_id]
            lane.submit(self._exchange, message, *parts[key], deadline, answers)
            waiting += 1
        parts.clear()
        for _ in range(waiting):
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Lost):
                self._lose(answer.node_id, answer.error)
            yield answer

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send each message to its node and return the replies, ordered by node id.

        Raises:
            GridFailure: a participant is unreachable, or as `exchange` does.
            Cancelled: the work was called off.
        """
        replies = []
        for answer in self.exchange(messages, timeout):
            if isinstance(answer, Lost):
                raise answer.error
            replies.append(answer)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _exchange(
        self,
        message: Message,
        header: bytes,
        elements: Sequence[memoryview],
        deadline: float | None,
        answers: queue.SimpleQueue[Message | Lost | Exception],
    ) -> None:
        try:
            answers.put(self._ask(message, header, elements, deadline))
        except Unreachable as error:
            answers.put(Lost(message.metadata.dst_node_id, error))
        except Exception as error:
            answers.put(error)

    def _ask(self, message: Message, header: bytes, elements: Sequence[memoryview], deadline: float | None) -> Message:
        node = message.metadata.dst_node_id
        endpoint = self._endpoints[node]
        config = message.content.get("config")
        server_round = config.get("server-round", 0) if isinstance(config, ConfigRecord) else 0
        path = f"/v1/messages/{message.metadata.message_type}/{server_round!r}/{node}"
        headers = {"Authorization": f"Bearer {endpoint.token}"}

        def ask() -> Answer:
            left = None if deadline is None else deadline - time.monotonic()
            body: list[bytes | memoryview] = [codec.preamble(header, self._told.get(node, b"")), *elements]
            return self._lines[node].ask("POST", path, body, headers, left)

        for attempt in range(_RENEWALS + 1):
            answer = ask()
            if answer.status == HTTPStatus.PRECONDITION_REQUIRED and self._told.pop(node, b""):
                answer = ask()
            if answer.status == HTTPStatus.OK:
                self._told.setdefault(node, header)
                break
            no_session = answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)
            if not no_session or self._renew is None or attempt == _RENEWALS:
                raise GridFailure(f"Participant {self.name(node)} {_complaint(answer)}")
            self._renew(node)
        try:
            return Message(codec.decode(answer.body, self._told[node]), reply_to=message)
        except codec.Malformed as error:
            raise GridFailure(f"Participant {self.name(node)} gave an unusable answer: {error.message}") from None

    def _lose(self, node: int, error: Unreachable) -> None:
        self._absent[node] = error
        self._lanes[node].submit(carry(self._look_out), node)

    def _look_out(self, node: int) -> None:
        """Wait until the worker is back, and give it a session for the rounds to come."""
        log = get_logger("grid").bind(participant_id=self.name(node))
        reason = self._absent[node].message
        log.warning("participant left out", code=HTTPStatus.SERVICE_UNAVAILABLE.value, reason=reason)
        while not self._closed.wait(_PAUSE):
            try:
                self._cancellation.check()
                if self._lines[node].alive() and not self._closed.is_set():
                    if self._renew is not None:
                        self._renew(node)
                    log.info("participant is back", code=HTTPStatus.OK.value)
                    del self._absent[node]
                    return
            except Cancelled:
                return
            except SynergosError as error:
                log.warning("participant is back without a session", code=error.status, reason=error.message)

    def _wake(self) -> None:
        try:
            self._cancellation.check()
        except Cancelled as error:
            self._answers.put(error)

    def set_run(self, run: object) -> None:
        """Not used: a direct grid serves the run that it was made for."""
        raise NotImplementedError

    @property
    def run(self) -> NoReturn:
        """Not used: runs of a SuperLink."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> NoReturn:
        """Not offered: a direct grid has no mailbox, see `send_and_receive`."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> NoReturn:
        """Not offered: a direct grid has no mailbox, see `send_and_receive`."""
        raise NotImplementedError


def _complaint(answer: Answer) -> str:
    try:
        text = str(json.loads(answer.body)["message"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP status {answer.status}"
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return f"has lost its session, perhaps it was restarted: {text}"
    return f"failed: {text}"
