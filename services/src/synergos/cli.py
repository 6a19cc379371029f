"""The command line that all services share."""

from __future__ import annotations

import argparse
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from synergos import __version__


@dataclass(frozen=True)
class Options:
    """Parsed command line.

    Attributes:
        id: name of this node in logs.
        logging_variant: `["basic"]` or `["graylog", host, port]`.
        logging_resolution: seconds between two records of hardware usage, None for no such records.
        sysmetrics_port: port of the log server that takes the records of hardware usage.
        cpus: cores to use, never more than there are.
        gpus: cards to use, never more than there are.
        censored: mask what looks like a path in the log, by its key.
        debug: log at DEBUG level, with the place of each call.
        command: `serve`, or `reset` to delete what runs produced.
        minimum_rows: worker only: what fewer rows share is not told.
        queue: host and port of the broker that jobs come from or go to; None for a TTP that takes its jobs by REST, and
            where a Director only resets.
        grid: TTP only: index of its grid in a cluster.
        dry_run: with `reset`, only print what would be deleted.
    """

    id: str
    logging_variant: list[str]
    logging_resolution: int | None
    cpus: int
    gpus: int
    censored: bool
    debug: bool
    sysmetrics_port: int = 9100
    minimum_rows: int = 5
    queue: tuple[str, int] | None = None
    grid: int = 0
    command: str = "serve"
    dry_run: bool = False


def parser(component: str, resolution: int | None = None) -> argparse.ArgumentParser:
    """Return the parser with the flags common to all services.

    Args:
        component: `ttp`, `worker` or `director`.
        resolution: default of `--logging_resolution` in seconds.
    """
    result = argparse.ArgumentParser(
        prog=f"synergos-{component}",
        description=f"Run the {component} of a Synergos grid.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    result.add_argument("--id", "-i", default=f"{component}/{uuid.uuid4()}", help="name of this node in logs")
    result.add_argument(
        "--logging_variant",
        "-l",
        nargs="+",
        default=["basic"],
        metavar=("VARIANT", "HOST PORT"),
        help="'basic' (standard output), or 'graylog HOST PORT' to send all lines there as GELF over TCP, too",
    )
    result.add_argument(
        "--logging_resolution",
        "-r",
        type=int,
        default=resolution,
        metavar="SECONDS",
        help="period of the hardware usage records",
    )
    result.add_argument(
        "--sysmetrics_port",
        default=str(Options.sysmetrics_port),
        metavar="PORT",
        help="port of the same log server that takes the hardware usage records",
    )
    result.add_argument("--cpus", type=int, default=max(1, _cores() - 1), metavar="N", help="cores to use at most")
    result.add_argument("--gpus", type=int, default=_cards(), metavar="N", help="cards to use at most; 0 for none")
    result.add_argument("--censored", "-c", action="store_true", help="mask paths in the log")
    result.add_argument("--debug", "-d", action="store_true", help="log at DEBUG level")
    if component == "worker":
        result.add_argument(
            "--minimum-rows",
            type=int,
            default=Options.minimum_rows,
            metavar="N",
            help="tell no value that fewer rows share, and take part only with so many training rows",
        )
    if component in ("ttp", "director"):
        result.add_argument(
            "--queue",
            "-mq",
            nargs=3,
            metavar=("rabbitmq", "HOST", "PORT"),
            help="broker of the cluster" + (": jobs come from there, not by REST" if component == "ttp" else ""),
        )
    if component == "ttp":
        result.add_argument(
            "--grid", "-g", type=int, default=Options.grid, metavar="N", help="index of its grid in the cluster"
        )
    commands = result.add_subparsers(dest="command", metavar="COMMAND", help="default: serve")
    reset = commands.add_parser("reset", help="delete what runs produced", allow_abbrev=False)
    reset.add_argument("--dry-run", action="store_true", help="only print what would be deleted, one per line")
    return result


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Options:
    """Return the checked options; like argparse, print what is wrong and exit with 2."""
    given = parser.parse_args(argv)
    variant, *target = given.logging_variant
    if variant == "graylog":
        if len(target) != 2:
            parser.error("--logging_variant graylog needs HOST and PORT, for example: -l graylog 172.19.0.10 9300")
        if not _is_port(target[1]):
            parser.error(f"--logging_variant graylog: PORT is a number from 1 to 65535, not {target[1]!r}")
    elif variant != "basic":
        parser.error(f"--logging_variant {variant!r} is not supported: use 'basic' or 'graylog HOST PORT'")
    elif target:
        parser.error(f"--logging_variant basic takes nothing after it, not {' '.join(target)!r}")
    if given.logging_resolution is not None and given.logging_resolution < 1:
        parser.error(f"--logging_resolution is at least 1 second, not {given.logging_resolution}")
    if not _is_port(given.sysmetrics_port):
        parser.error(f"--sysmetrics_port is a number from 1 to 65535, not {given.sysmetrics_port!r}")
    if given.cpus < 1:
        parser.error(f"--cpus is at least 1, not {given.cpus}")
    if given.gpus < 0:
        parser.error(f"--gpus is at least 0, not {given.gpus}")
    minimum_rows = getattr(given, "minimum_rows", Options.minimum_rows)
    if minimum_rows < 1:
        parser.error(f"--minimum-rows is at least 1, not {minimum_rows}")
    queue = getattr(given, "queue", None)
    if queue is not None and queue[0] != "rabbitmq":
        parser.error(f"--queue {queue[0]!r} is not supported: use 'rabbitmq HOST PORT'")
    if queue is not None and not _is_port(queue[2]):
        parser.error(f"--queue rabbitmq: PORT is a number from 1 to 65535, not {queue[2]!r}")
    if parser.prog.endswith("director") and queue is None and given.command is None:
        parser.error("--queue rabbitmq HOST PORT is needed: the broker that takes jobs to the grids")
    grid = getattr(given, "grid", Options.grid)
    if grid < 0:
        parser.error(f"--grid is at least 0, not {grid}")
    return Options(
        id=given.id,
        logging_variant=given.logging_variant,
        logging_resolution=given.logging_resolution,
        cpus=min(given.cpus, _cores()),
        gpus=min(given.gpus, _cards()),
        censored=given.censored,
        debug=given.debug,
        sysmetrics_port=int(given.sysmetrics_port),
        minimum_rows=minimum_rows,
        queue=(queue[1], int(queue[2])) if queue else None,
        grid=grid,
        command=given.command or "serve",
        dry_run=getattr(given, "dry_run", False),
    )


def limit_hardware(options: Options) -> None:
    """Hold the numerical libraries to `options`; they read these settings once, so call it before they are imported."""
    os.environ["OMP_NUM_THREADS"] = str(options.cpus)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(card) for card in range(options.gpus))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cards() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))
