"""What the REST services share: the envelope of answers, readable errors, and both forms of a trailing slash."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synergos import trace
from synergos.errors import SynergosError
from synergos.logs import bound, get_logger

API_VERSION = "0.1.0"

_HEADER = trace.HEADER.encode()
# Where a request's scope says why it is refused.
_REASON = "synergos.reason"
# What a client hears that asks for what is not there yet.
_NOT_YET = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.NOT_ACCEPTABLE})
_NO_OBJECT = frozenset({"model_type", "model_attributes_type", "dict_type"})

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def _json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    # An undefined figure (a ROC curve of one class) is null: the bare NaN of Python's encoder is not JSON.
    body = to_json(content, inf_nan_mode="null")
    return Response(body, status, headers, media_type="application/json")


def success(
    method: str, params: Mapping[str, Any], data: Any, status: int = 200, message: str | None = None, **beside: Any
) -> Response:
    """Answer in the envelope of the API.

    Args:
        method: `<resource>.<verb>`, for example `run.put`.
        params: ids from the path; those that are None are left out.
        data: object for one record, list for several.
        message: something that the caller should know beside; left out if it is None.
        beside: further fields of the envelope.
    """
    given = {name: value for name, value in params.items() if value is not None}
    envelope = {"apiVersion": API_VERSION, "success": 1, "status": status, "method": method, "params": given}
    said = {} if message is None else {"message": message}
    return _json(status, {**envelope, "data": data, **said, **beside})


def failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with an error; `data` is always empty, so clients that wait for data go on waiting or stop at `status`."""
    envelope = {"apiVersion": API_VERSION, "success": 0, "status": status, "message": message, "data": []}
    return _json(status, envelope, headers)


def create_api(title: str, lifespan: Lifespan | None = None) -> FastAPI:
    """Return an application whose every answer, errors included, follows the API's rules. It serves no pages by itself.

    Routes are declared without a trailing slash and answer with and without it. Handlers raise `SynergosError` for
    everything that the caller is to read; anything else becomes a bare 500 and a log entry.
    """
    app = FastAPI(
        title=title,
        version=API_VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.add_middleware(_Boundary)

    @app.exception_handler(SynergosError)
    async def expected(request: Request, error: SynergosError) -> Response:
        request.scope[_REASON] = error.message
        return failure(error.status, error.message)

    @app.exception_handler(RequestValidationError)
    async def unusable(request: Request, error: RequestValidationError) -> Response:
        # What a client sent is told to the client, not to the log.
        request.scope[_REASON] = f"Unusable request: {describe(error.errors(), quote=False)}."
        for item in error.errors():
            if item["type"] == "json_invalid":
                return failure(400, f"The body is not JSON: {item['ctx']['error']} (character {item['loc'][-1]}).")
        return failure(417, f"Unusable request: {describe(error.errors())}.")

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.NOT_FOUND:
            return failure(404, f"Nothing is served at {request.url.path}.")
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(_methods(request))
            message = f"The method is not allowed for the requested URL: it takes {allowed}."
            return failure(405, message, {"Allow": allowed})
        return failure(error.status_code, str(error.detail), error.headers)

    return app


def describe(errors: Sequence[Mapping[str, Any]], quote: bool = True) -> str:
    """Put pydantic's findings into one sentence that names each field and what would be right there.

    Args:
        quote: also say what was given.
    """
    return "; ".join(_describe(error, quote) for error in errors[:8])


def _describe(error: Mapping[str, Any], quote: bool) -> str:
    steps = [step for step in error["loc"] if step not in ("body", "query")]
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
    field = shorten(field, 120)
    if not field:
        if error["type"] == "value_error":
            return str(error["ctx"]["error"]) if quote else "unusable body"
        return "a JSON object is needed as body, sent with 'Content-Type: application/json'"
    if error["type"] == "missing":
        return f"{field}: required, but missing"
    if error["type"] == "extra_forbidden":
        return f"{field}: unknown field"
    if error["type"] == "value_error":
        return f"{field}: {error['ctx']['error'] if quote else 'unusable value'}"
    text = "Input should be an object" if error["type"] in _NO_OBJECT else str(error["msg"])
    given = f", got {shorten(repr(error['input']))}" if quote else ""
    return f"{field}: {text[:1].lower()}{text[1:]}{given}"


def shorten(text: str, length: int = 60) -> str:
    """Cut what a client sent down to what a message can quote."""
    return text if len(text) <= length else f"{text[:length]}..."


def _methods(request: Request) -> list[str]:
    def served(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return [method for method in ("GET", "POST", "PUT", "PATCH", "DELETE") if served(method)]


class _Boundary:
    """Outermost layer: trailing slash, trace, one log line per request, and no stack trace in any answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.log = get_logger("rest")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Answered in place: a redirect would cost every client a second request, and some would turn POST into GET.
        path = scope["path"].rstrip("/") or "/"
        scope = {**scope, "path": path}
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER), "")
        trace_id = trace.read(given) or trace.new()
        with bound(trace_id=trace_id):
            await self._answer(scope, receive, send, (_HEADER, trace.header(trace_id).encode()))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, header: tuple[bytes, bytes]) -> None:
        status = 0
        started = time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), header]}
            await send(message)

        request = {"method": scope["method"], "path": scope["path"]}
        try:
            await self.app(scope, receive, watch)
        except Exception:
            self.log.exception("request failed", code=500, **request)
            if status:
                raise
            await failure(500, "Internal Server Error")(scope, receive, watch)
        finally:
            elapsed = round((time.perf_counter() - started) * 1000, 1)
            facts = {**scope.get("path_params", {}), "status": status, "code": status, "ms": elapsed}
            if _REASON in scope:
                facts["description"] = scope[_REASON]
            self._note(scope["path"], status)("request", **request, **facts)

    def _note(self, path: str, status: int) -> Callable[..., Any]:
        # Health checks come every few seconds and say nothing.
        if path == "/health" and status == HTTPStatus.OK:
            return self.log.debug
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return self.log.error
        return self.log.warning if status >= HTTPStatus.BAD_REQUEST and status not in _NOT_YET else self.log.info
