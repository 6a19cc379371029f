"""Trace ids: one number that follows a piece of work through all processes, carried as W3C Trace Context.

https://www.w3.org/TR/trace-context/ describes the header `traceparent`. Spans are not recorded here, so the parent id
in it only says that there was a caller.
"""

from __future__ import annotations

import re
import secrets

HEADER = "traceparent"
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_TRACE = re.compile(r"[0-9a-f]{32}")


def new() -> str:
    """Return a trace id that nobody has: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def check(trace_id: str) -> str:
    """Return `trace_id` or raise `ValueError` if it is not 32 lower-case hexadecimal digits, one of them not 0."""
    if not _TRACE.fullmatch(trace_id) or not int(trace_id, 16):
        raise ValueError(f"A trace id has 32 lower-case hexadecimal digits, not all 0; {trace_id!r} does not.")
    return trace_id


def header(trace_id: str) -> str:
    """Return the value of `traceparent` for one call, with a parent id of its own."""
    return f"00-{trace_id}-{secrets.token_hex(8)}-01"


def read(value: str) -> str | None:
    """Return the trace id in a value of `traceparent`, None if it holds none: such a header is to be ignored."""
    found = _HEADER.fullmatch(value.strip())
    if found is None:
        return None
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    return trace_id
