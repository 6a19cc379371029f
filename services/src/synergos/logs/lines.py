"""From an event to a line: what every line carries, on standard output and for the log server."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import CodeType, FrameType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from synergos.logs import context, gelf
from synergos.logs.censor import clean
from synergos.logs.sender import Sender

_PREFIXES = {"ttp": "TTP_", "worker": "WKR_", "director": "DIR_"}
_LEVELS = {"warn": "warning", "exception": "error", "fatal": "critical", "notset": "info"}
_SENDER = {"ID_path": "synergos/logs/sender.py", "ID_class": "Sender"}
_dump = json.JSONEncoder(default=str).encode


class Lines:
    """Writes the lines of one process, in one order everywhere.

    Args:
        node: `--id` of the process.
        censored: mask values by their key, see `synergos.logs.censor`.
        debug: add the number of the source line.
        stream: where lines are printed; None for standard output, whatever that is by then.
    """

    def __init__(
        self,
        node: str,
        component: str,
        censored: bool = False,
        debug: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._base = {"component": component, "node": node}
        self.logger = f"{_PREFIXES[component]}{node}"
        self._censored, self._debug, self._stream = censored, debug, stream
        self._places: dict[tuple[str, int], dict[str, str]] = {}
        self.senders: dict[str, Sender] = {}
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # Reentrant: a signal or a finaliser may log in the middle of a line.
        self._lock = threading.RLock()
        self._process = uuid.uuid4().hex[:12]
        self._numbers = itertools.count(1)

    def process(self, _: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Take an event of structlog, as the last of its processors."""
        self.write(_LEVELS.get(method, method), event, self._place(_caller()))
        raise structlog.DropEvent

    def write(self, level: str, event: Mapping[str, Any], place: Mapping[str, Any], logger: str | None = None) -> None:
        """Write a line everywhere.

        Args:
            place: where it comes from: `ID_path`, `ID_class`, `ID_function`.
            logger: whose line it is; by default the service's.
        """
        logger = logger or self.logger
        try:
            with self._lock:
                line, seconds = self._line(level, event, place, logger)
                self._print(line)
                sender = self.senders.get(logger)
                if sender is not None:
                    sender.put(gelf.encode(line, seconds))
        except Exception:
            # Whatever cannot be logged is no reason to fail.
            with suppress(Exception):
                traceback.print_exc(file=sys.stderr)

    def say(self, event: str, level: str, **fields: object) -> bytes:
        """Print a line about the logging itself and return it for the log server. See `synergos.logs.sender.Say`."""
        with self._lock:
            line, seconds = self._line(level, {"event": event, **fields}, _SENDER, self.logger)
            self._print(line)
            return gelf.encode(line, seconds)

    def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        for sender in self.senders.values():
            sender.close(max(0.1, deadline - time.monotonic()))

    def _line(
        self, level: str, event: Mapping[str, Any], place: Mapping[str, Any], logger: str
    ) -> tuple[dict[str, Any], float]:
        seconds = time.time()
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
        own = {
            "timestamp": f"{moment.isoformat(timespec='microseconds')}Z",
            "level": level,
            "event": event["event"],
            "logger": logger,
            "line_id": f"{self._process}-{next(self._numbers):08d}",
            **self._base,
        }
        line = {**own, **context.current(), **event, **place}
        for name in own.keys() & event.keys() - {"event"}:
            line[name], line[f"{name}_"] = own[name], event[name]
        failure = line.pop("exc_info", None)
        if failure:
            line["exception"] = _traceback(failure)
        return clean(line, self._censored), seconds

    def _print(self, line: dict[str, Any]) -> None:
        stream = self._stream or sys.stdout
        stream.write(f"{_dump(line)}\n")
        stream.flush()

    def _place(self, frame: FrameType) -> dict[str, Any]:
        code = frame.f_code
        key = (code.co_filename, code.co_firstlineno)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _describe(code)
        return {**place, "lineno": frame.f_lineno} if self._debug else place


class Foreign(logging.Handler):
    """Writes what libraries log by the standard library's means."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            event = {"event": record.getMessage(), "exc_info": record.exc_info}
        except (TypeError, ValueError):
            event = {"event": str(record.msg), "exc_info": record.exc_info}
        place = {"ID_path": record.name.replace(".", "/"), "ID_function": record.funcName or ""}
        level = record.levelname.lower()
        self._lines.write(_LEVELS.get(level, level), event, place)


def _caller() -> FrameType:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("structlog"):
        frame = frame.f_back
    return frame


def _describe(code: CodeType) -> dict[str, str]:
    """Return the source file from the package on, the class if there is one, and the function."""
    path = code.co_filename
    start = path.rfind("/synergos/")
    *outer, function = code.co_qualname.split(".")
    place = {"ID_path": path[start + 1 :] if start >= 0 else path, "ID_function": function}
    owner = [name for name in outer if name != "<locals>"]
    if owner:
        place["ID_class"] = owner[-1]
    return place


def _traceback(failure: Any) -> str:
    if isinstance(failure, BaseException):
        failure = (type(failure), failure, failure.__traceback__)
    elif not isinstance(failure, tuple):
        failure = sys.exc_info()
    return "".join(traceback.format_exception(*failure)).rstrip()
