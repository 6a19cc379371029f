"""What all lines of a piece of work have in common: its trace, its job, the ids of what it is about."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from synergos import trace

T = TypeVar("T")

_fields: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "synergos_log", default=MappingProxyType({})
)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Add fields to every line that is logged inside, by this thread or task; None values are left out."""
    token = _fields.set({**_fields.get(), **{name: value for name, value in fields.items() if value is not None}})
    try:
        yield
    finally:
        _fields.reset(token)


def current() -> Mapping[str, Any]:
    """Return the fields that are bound here."""
    return _fields.get()


def trace_id() -> str | None:
    """Return the trace id of the work that is under way here."""
    return _fields.get().get("trace_id")


def headers() -> dict[str, str]:
    """Return the headers with which a call takes the trace along."""
    found = trace_id()
    return {trace.HEADER: trace.header(found)} if found else {}


def carry(call: Callable[..., T]) -> Callable[..., T]:
    """Return `call` for use in other threads: they know what is bound here, which they do not by themselves.

    The result may be called several times, also at the same time.
    """
    fields = _fields.get()

    def carried(*args: Any, **options: Any) -> T:
        token = _fields.set(fields)
        try:
            return call(*args, **options)
        finally:
            _fields.reset(token)

    return carried
