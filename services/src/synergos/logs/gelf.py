"""Lines as GELF 1.1 messages that Graylog and Elasticsearch take as they are.

Every additional field is a number or a text. What would cost the server the whole message is avoided: a field whose
type changes (numbers that are none are left out), a term over 32 KiB, a message over 2 MiB, a reserved name.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
# 8,000 characters have at most 32,000 bytes, and Elasticsearch takes 32,766.
_TEXT, _FULL, _FIELDS = 8_000, 100_000, 64
# A message that is larger is cut down to fields of `_SHORT` characters.
_LARGE, _SHORT = 512 * 1024, 500
_LARGEST_NUMBER = 2**63
# What GELF forbids as an additional field, and what Graylog makes of the fields that every message has.
_RESERVED = frozenset(
    ("id", "version", "host", "source", "short_message", "message", "full_message", "timestamp", "level", "streams")
)
# Fields that say whose line it is, not what happened: the short message leaves them out.
_CONTEXT = frozenset(
    (
        *("timestamp", "level", "event", "logger", "line_id", "component", "node", "lineno", "exception", "code"),
        *("trace_id", "job_id", "process", "collab_id", "project_id", "expt_id", "run_id", "participant_id"),
        *("ID_path", "ID_class", "ID_function"),
    )
)
_HOST = socket.gethostname()
_dump = json.JSONEncoder(ensure_ascii=False, default=str, separators=(",", ":")).encode


def encode(line: Mapping[str, Any], seconds: float) -> bytes:
    """Return a line as one message with its delimiter, the null byte.

    Args:
        line: `logger`, `event` and `level`, with further fields, all of them clean (see `synergos.logs.censor`);
            `exception` becomes the full message.
        seconds: time since the epoch.
    """
    message = _message(line, seconds, _TEXT, _FULL)
    content = _bytes(message)
    return content if len(content) <= _LARGE else _bytes(_message(line, seconds, _SHORT, _SHORT * 40))


def _message(line: Mapping[str, Any], seconds: float, text: int, full: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "version": "1.1",
        "host": _HOST,
        "short_message": f"[{line['logger']}] {shorten(_summary(line), _SHORT)}",
        "timestamp": round(seconds, 6),
        "level": LEVELS.get(line["level"], 6),
        "_level_name": line["level"],
    }
    for name, value in line.items():
        if name == "exception":
            message["full_message"] = shorten(str(value), full)
        elif name not in ("timestamp", "level") and len(message) < _FIELDS:
            plain = _plain(value, text)
            if plain is not None:
                message[_key(name)] = plain
    return message


def _summary(line: Mapping[str, Any]) -> str:
    """Return what a list of lines is to show of this one: the event and its own short fields."""
    told = (f"{name}={value}" for name, value in line.items() if name not in _CONTEXT and _brief(value))
    return " ".join((str(line["event"]), *told))


def _brief(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and 0 < len(value) <= 200)


def shorten(text: str, length: int) -> str:
    """Return a text of at most `length` characters, from its beginning and its end (a traceback tells most there)."""
    if len(text) <= length:
        return text
    mark = f" … {len(text) - length} characters … "
    head = length // 4
    return f"{text[:head]}{mark}{text[len(mark) + head - length :]}"


def _key(name: str) -> str:
    known = _KEYS.get(name)
    if known is None:
        # No dots: Elasticsearch would take what is before them for an object.
        safe = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-") else "_" for letter in name)
        known = f"_{safe[:64]}_" if safe in _RESERVED else f"_{safe[:64]}"
        if len(_KEYS) < 1000:
            _KEYS[name] = known
    return known


_KEYS: dict[str, str] = {}


def _plain(value: Any, text: int) -> str | int | float | None:
    if isinstance(value, str):
        return shorten(value, text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value if -_LARGEST_NUMBER <= value < _LARGEST_NUMBER else None
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, dict | list):
        return shorten(_dump(value), text)
    return shorten(str(value), text)


def _bytes(message: dict[str, Any]) -> bytes:
    # A null character inside a text is escaped by JSON; half a surrogate pair has no bytes.
    return _dump(message).encode("utf-8", "replace") + b"\0"
