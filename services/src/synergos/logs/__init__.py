"""Structured logs of the services: one JSON object per line on standard output and, on request, GELF to a log server.

docs/logging.md describes the fields and what is guaranteed.
"""

from __future__ import annotations

import atexit
import logging
import os
import platform
import sys
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

from synergos import __version__
from synergos.cli import Options
from synergos.logs.context import bound, carry, current, headers, trace_id
from synergos.logs.lines import Foreign, Lines
from synergos.logs.sender import Sender

__all__ = ["bound", "carry", "close", "configure", "current", "get_logger", "headers", "trace_id"]

# Seconds that the end of a process may take for lines that wait.
FLUSH = 3.0

_lines: Lines | None = None


def configure(options: Options, component: str, stream: TextIO | None = None) -> None:
    """Set up logging of this process; with a logging resolution, also start the records of what it uses.

    Args:
        component: `ttp`, `worker` or `director`.
        stream: where lines are printed instead of standard output.
    """
    global _lines
    _lines = lines = Lines(options.id, component, options.censored, options.debug, stream)
    system = f"SYS_{options.id}"
    if options.logging_variant[0] == "graylog":
        _, host, port = options.logging_variant
        lines.senders = {
            lines.logger: Sender(host, int(port), lines.say),
            system: Sender(host, options.sysmetrics_port, lines.say),
        }
    level = logging.DEBUG if options.debug else logging.INFO
    structlog.configure(
        processors=[lines.process],
        logger_factory=lambda *_: None,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [Foreign(lines)]
    root.setLevel(level)
    # Libraries that tell the story of every request and connection.
    for chatty in ("httpx", "httpcore", "asyncio", "urllib3", "alembic", "uvicorn", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    atexit.register(close)
    _introduce(options)
    if options.logging_resolution:
        arguments = (lines, system, options.logging_resolution)
        threading.Thread(target=_track, args=arguments, daemon=True, name="usage").start()


def get_logger(name: str) -> FilteringBoundLogger:
    """Return a logger that takes an event and key-value pairs."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def close() -> None:
    """Send what waits, for a few seconds at most; call it before `os._exit`."""
    if _lines is not None:
        _lines.close(FLUSH)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        get_logger("process").error("uncaught error", code=500, exc_info=(kind, error, trace))


def _introduce(options: Options) -> None:
    """Tell what this process was told, and on what it runs."""
    log = get_logger("start")
    given = asdict(options)
    logged = {name: given.pop(name) for name in ("logging_variant", "logging_resolution", "sysmetrics_port")}
    log.info("input parameters", code=200, parameters={**given, **logged})
    log.info(
        "logging parameters",
        code=200,
        variant=options.logging_variant[0],
        server=":".join(options.logging_variant[1:]) or None,
        resolution=options.logging_resolution,
        sysmetrics_port=options.sysmetrics_port,
        censored=options.censored,
        debug=options.debug,
    )
    log.info(
        "system parameters",
        code=200,
        synergos=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        cpus_usable=len(os.sched_getaffinity(0)),
        memory_machine=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _track(lines: Lines, logger: str, seconds: int) -> None:
    from synergos.logs.usage import Groups, Usage

    usage = Usage(Groups())
    pause = threading.Event()
    place = {"ID_path": "synergos/logs/usage.py", "ID_class": "Usage", "ID_function": "figures"}
    while not pause.wait(seconds):
        try:
            figures: dict[str, Any] = dict(usage.figures())
        except (OSError, ValueError) as error:
            lines.write("warning", {"event": "usage cannot be read", "description": str(error)}, place, logger)
            continue
        lines.write("info", {"event": "usage", "resolution": seconds, **figures}, place, logger)
