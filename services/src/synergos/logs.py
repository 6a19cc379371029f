"""Structured logs: one JSON object per line on standard output, also for what the libraries log."""

from __future__ import annotations

import logging
import re
import sys
import threading
from typing import Any

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict, Processor, WrappedLogger

from synergos.cli import Options

MASK = "*CENSORED*"
_PATH_KEY = re.compile(r"(^|_)(cache|database|db|dir|file|folder|outputs?|path|root|src|template)s?$")


def configure(options: Options, component: str) -> None:
    """Set up logging of this process; with a logging resolution, also start the hardware usage records."""

    def stamp(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {"component": component, "node": options.id, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        stamp,
    ]
    if options.debug:
        places = (structlog.processors.CallsiteParameter.MODULE, structlog.processors.CallsiteParameter.LINENO)
        shared.append(structlog.processors.CallsiteParameterAdder(places))
    if options.censored:
        shared.append(_censor)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if options.debug else logging.INFO)
    # Libraries that tell the story of every request and connection.
    for chatty in ("httpx", "httpcore", "asyncio", "urllib3", "alembic", "uvicorn", "sqlalchemy"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if options.logging_resolution:
        threading.Thread(target=_track, args=(options.logging_resolution,), daemon=True, name="usage").start()


def get_logger(name: str) -> BoundLogger:
    """Return a logger that takes an event and key-value pairs."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _censor(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    # The `path` of a request is its URL.
    if event.get("event") == "request":
        return event
    masked: EventDict = _mask(event)
    return masked


def _mask(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(key, str) and _PATH_KEY.search(key.lower()) else _mask(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mask(item) for item in value]
    return value


def _track(seconds: int) -> None:
    import psutil  # type: ignore[import-untyped]

    log = get_logger("usage")
    pause = threading.Event()
    while not pause.wait(seconds):
        memory, disk, net = psutil.virtual_memory(), psutil.disk_io_counters(), psutil.net_io_counters()
        log.info(
            "usage",
            cpu_percent=psutil.cpu_percent(),
            memory_total=memory.total,
            memory_available=memory.available,
            memory_used=memory.used,
            memory_free=memory.free,
            disk_read_count=disk.read_count if disk else 0,
            disk_write_count=disk.write_count if disk else 0,
            disk_read_bytes=disk.read_bytes if disk else 0,
            disk_write_bytes=disk.write_bytes if disk else 0,
            net_bytes_sent=net.bytes_sent,
            net_bytes_recv=net.bytes_recv,
            net_packets_sent=net.packets_sent,
            net_packets_recv=net.packets_recv,
        )
