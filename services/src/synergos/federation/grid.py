"""A Flower grid that reaches long-lived workers directly over HTTP."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from synergos.errors import Cancelled, GridFailure
from synergos.federation import codec, identity

# A peer that vanished without a word (power, network) is noticed within half a minute, however long a round may take.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
]
_CONNECT = 5.0
_PAUSE = 0.2


@dataclass(frozen=True)
class Endpoint:
    """The data port of one participant's worker, and the token of the session that is open there."""

    participant_id: str
    url: str
    token: str


class DirectGrid(Grid):
    """Flower's grid over the workers' data ports.

    Node ids are 1, 2, … in the order of `endpoints`, and replies come in that order, whatever came first: sums of
    floating-point numbers depend on it. A message whose connection breaks is sent again until `reconnect` seconds have
    passed; workers answer a repeated message with the reply they already have. The first participant that fails ends
    the exchange with `GridFailure`; the others are not waited for.

    Args:
        endpoints: the participants.
        reconnect: seconds that a worker may be unreachable.
    """

    def __init__(self, endpoints: Iterable[Endpoint], reconnect: float = 10.0) -> None:
        identity.adopt()
        self._reconnect = reconnect
        self._endpoints = dict(enumerate(endpoints, start=1))
        # Transports, not clients: what a client adds (cookies, redirects, proxies) costs a third of a small round.
        self._transports = {node: httpx.HTTPTransport(socket_options=_KEEPALIVE) for node in self._endpoints}
        # One thread per worker, which alone uses its transport: it is closed when the last request is through.
        self._lanes = {node: ThreadPoolExecutor(1, f"grid-{node}") for node in self._endpoints}
        self._answers: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        self._cancelled: Cancelled | None = None

    def name(self, node_id: int) -> str:
        """Return the participant behind a node id."""
        return self._endpoints[node_id].participant_id

    def cancel(self, reason: str) -> None:
        """Make the running exchange, and every later one, raise `Cancelled`. Callable from any thread."""
        self._cancelled = Cancelled(reason)
        self._answers.put(self._cancelled)

    def close(self) -> None:
        """Let go of the connections, without waiting for requests that are still open."""
        for node, lane in self._lanes.items():
            lane.submit(self._transports[node].close)
            lane.shutdown(wait=False)

    def get_node_ids(self) -> list[int]:
        """Return all node ids."""
        return list(self._endpoints)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send each message to its node and return the replies, ordered by node id.

        Raises:
            GridFailure: a participant cannot be reached, does not answer in `timeout` seconds, or refuses.
            Cancelled: `cancel` was called.
        """
        deadline = time.monotonic() + timeout if timeout is not None else None
        bodies: dict[int, bytes] = {}
        answers = self._answers = queue.SimpleQueue()
        if self._cancelled:
            raise self._cancelled
        waiting = 0
        for message in messages:
            # A strategy gives all its messages of a round one content.
            key = id(message.content)
            if key not in bodies:
                bodies[key] = codec.encode(message.content)
            lane = self._lanes[message.metadata.dst_node_id]
            lane.submit(self._exchange, message, bodies[key], deadline, answers)
            waiting += 1
        replies = []
        for _ in range(waiting):
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            replies.append(answer)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)

    def _exchange(
        self, message: Message, body: bytes, deadline: float | None, answers: queue.SimpleQueue[Message | Exception]
    ) -> None:
        try:
            answers.put(self._ask(message, body, deadline))
        except Exception as error:
            answers.put(error)

    def _ask(self, message: Message, body: bytes, deadline: float | None) -> Message:
        node = message.metadata.dst_node_id
        config = message.content.get("config")
        server_round = config.get("server-round", 0) if isinstance(config, ConfigRecord) else 0
        path = f"/v1/messages/{message.metadata.message_type}/{server_round!r}/{node}"
        answer = self._post(node, path, body, deadline)
        try:
            return Message(codec.decode(answer), reply_to=message)
        except codec.Malformed as error:
            raise self._failure(node, f"gave an unusable answer: {error.message}") from None

    def _post(self, node: int, path: str, body: bytes, deadline: float | None) -> bytes:
        endpoint = self._endpoints[node]
        headers = {"Authorization": f"Bearer {endpoint.token}", "Content-Type": codec.MEDIA_TYPE}
        request = httpx.Request("POST", endpoint.url + path, headers=headers, content=body)
        unreachable_since: float | None = None
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise self._failure(node, "did not answer in time")
            timeout = httpx.Timeout(left, connect=_CONNECT if left is None else min(_CONNECT, left))
            request.extensions["timeout"] = timeout.as_dict()
            try:
                response = self._transports[node].handle_request(request)
                response.read()
            except (httpx.ReadTimeout, httpx.WriteTimeout):
                raise self._failure(node, "did not answer in time") from None
            except httpx.TransportError as error:
                # A broken connection after a long wait is news of this moment, not of the moment of sending.
                now = time.monotonic()
                unreachable_since = unreachable_since or now
                if now - unreachable_since >= self._reconnect or self._cancelled:
                    raise self._failure(node, f"cannot be reached at {endpoint.url}: {error}") from None
                time.sleep(_PAUSE)
                continue
            if response.status_code == httpx.codes.OK:
                return response.content
            raise self._failure(node, _complaint(response))

    def _failure(self, node: int, what: str) -> GridFailure:
        return GridFailure(f"Participant {self.name(node)} {what}")

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


def _complaint(response: httpx.Response) -> str:
    try:
        text = str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP status {response.status_code}"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"has lost its session, perhaps it was restarted: {text}"
    return f"failed: {text}"
