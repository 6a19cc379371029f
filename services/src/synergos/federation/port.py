"""The worker's data port: Flower messages over HTTP, each session behind its own token."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from synergos import trace
from synergos.errors import NotFound, SynergosError
from synergos.federation import codec, identity
from synergos.federation.sessions import Session, Sessions
from synergos.logs import bound, get_logger

TYPES = ("train", "evaluate", "query")


class TooLarge(SynergosError):
    """A body over the limit."""

    status = 413


class Unauthorised(SynergosError):
    """No token, or one that opens nothing here."""

    status = 401


class _Desk:
    """Answers the messages of one session, one at a time, and each only once.

    A message's identity is its type and round. Its reply is kept until the next message: whoever asks again, because
    the connection broke, gets the same reply and nothing is trained twice. A repetition that arrives while the first
    is in work waits for it.
    """

    def __init__(self, session: Session, sessions: Sessions) -> None:
        self._session, self._sessions = session, sessions
        self._lock = threading.Lock()
        self._last: tuple[tuple[str, int], bytes] | None = None
        self._app: ClientApp | None = None
        # The last header that came in full: to a message that tells the difference, the reply does, too.
        self._header = b""

    def answer(self, kind: str, number: int, node: int, body: bytearray) -> bytes:
        with self._lock:
            if self._last is None or self._last[0] != (kind, number):
                # The earlier reply is let go before the next is made: with large models only one fits.
                self._last = None
                self._last = (kind, number), self._work(kind, node, body)
            return self._last[1]

    def _work(self, kind: str, node: int, body: bytearray) -> bytes:
        content = codec.decode(body, self._header)
        header = codec.header_of(body)
        if header is not None:
            self._header = header
        if not self._is_open():
            raise NotFound("The session was closed.")
        if self._app is None:
            from synergos.federation.client import client_app  # here, because it brings torch

            self._app = client_app(self._session, self._is_open)
        message = Message(content, dst_node_id=node, message_type=kind)
        context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
        return codec.encode(self._app(message, context).content, self._header if header is None else b"")

    def _is_open(self) -> bool:
        try:
            return self._sessions.get(self._session.key) is self._session
        except NotFound:
            return False


def create_app(sessions: Sessions) -> Starlette:
    """Return the data port over `sessions`.

    `POST /v1/messages/<train|evaluate|query>/<round>/<node>` takes a message of `synergos.federation.codec`, with
    `Authorization: Bearer <token of the session>`, and answers with a message. Errors are JSON {message}: 400
    unreadable, 401 unknown token, 404 session closed meanwhile, 413 too large, 417 cannot be trained, 428 refers to a
    header that is not known here, 500 a defect.
    """
    identity.adopt()
    log = get_logger("port")

    async def explain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SynergosError)
        facts = getattr(request.state, "facts", {"trace_id": trace.read(request.headers.get(trace.HEADER, ""))})
        asked = {name: request.path_params[name] for name in ("kind", "round")}
        log.warning("message refused", **facts, **asked, code=error.status, description=error.message)
        return JSONResponse({"message": error.message}, status_code=error.status)

    async def missing(request: Request, _: Exception) -> JSONResponse:
        return JSONResponse({"message": f"There is no {request.method} {request.url.path} here."}, status_code=404)

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def message(request: Request) -> Response:
        session = _authorise(request, sessions)
        kind, number, node = (request.path_params[name] for name in ("kind", "round", "node"))
        if kind not in TYPES:
            raise codec.Malformed(f"{kind!r} is not a type of message ({', '.join(TYPES)}).")
        body = await _body(request)
        desk = session.state.setdefault("desk", _Desk(session, sessions))
        begin = time.perf_counter()
        request.state.facts = facts = session.ids
        with bound(**facts):
            try:
                reply = await asyncio.to_thread(desk.answer, kind, number, node, body)
            except SynergosError:
                raise
            except Exception:
                log.exception("message failed", code=500, kind=kind, round=number)
                return JSONResponse({"message": "The worker failed; its log tells why."}, status_code=500)
        seconds = round(time.perf_counter() - begin, 6)

        async def note() -> None:
            log.info("message answered", **facts, code=200, kind=kind, round=number, seconds=seconds)

        # The line follows the answer: with caches that are cold it takes a twentieth of a small round.
        return Response(reply, background=BackgroundTask(note))

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/messages/{kind}/{round:int}/{node:int}", message, methods=["POST"]),
        ],
        exception_handlers={SynergosError: explain, 404: missing, 405: missing},
    )


def _authorise(request: Request, sessions: Sessions) -> Session:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    found = None
    if scheme.lower() == "bearer" and token:
        for key in sessions.keys():  # noqa: SIM118 (no mapping)
            try:
                session = sessions.get(key)
            except NotFound:
                continue
            if hmac.compare_digest(session.token.encode(), token.encode()):
                found = session
    if found is None:
        raise Unauthorised("No session is open for this token: initialise first.")
    return found


async def _body(request: Request) -> bytearray:
    body = bytearray()
    async for part in request.stream():
        if len(body) + len(part) > codec.MAX_MESSAGE:
            raise TooLarge(f"A message has at most {codec.MAX_MESSAGE} bytes.")
        body += part
    return body
