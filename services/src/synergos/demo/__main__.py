"""Run one phase of the demo: `python -m synergos.demo PHASE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import structlog

from synergos import Driver
from synergos.demo import phases
from synergos.demo.settings import Settings, parse
from synergos.errors import Invalid, SynergosError

VARIABLE = "SYNERGOS_DEMO"


def compare(settings: Settings, driver: Driver) -> phases.Result:
    """Train the same model without federation."""
    from synergos.demo.compare import compare  # here, because it brings torch

    return compare(settings, driver)


PHASES: dict[str, Callable[[Settings, Driver], phases.Result]] = {
    "register": phases.register,
    "align": phases.align,
    "train": phases.train,
    "validate": phases.validate,
    "predict": phases.predict,
    "compare": compare,
    "search": phases.search,
    "links": phases.links,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the phase named on the command line.

    Returns:
        0 with one JSON object on standard output, or 1 with a sentence on standard error; a comparison that the
        federated model fails gives both.
    """
    parser = argparse.ArgumentParser(prog="synergos.demo", description="Run one phase of a federated cycle.")
    parser.add_argument("phase", choices=PHASES)
    parser.add_argument("--settings", type=Path, help=f"JSON file; by default the variable {VARIABLE} holds the JSON")
    options = parser.parse_args(argv)
    try:
        result = run(options.phase, settings(options.settings))
    except SynergosError as error:
        return complain(options.phase, error.message)
    print(json.dumps(result))
    return complain(options.phase, result["failure"]) if result.get("failure") else 0


def complain(phase: str, sentence: str) -> int:
    """Print why a phase failed, on one line: callers quote the last one."""
    print(f"Demo, phase {phase}: {sentence}", file=sys.stderr)
    return 1


def settings(file: Path | None) -> Settings:
    """Return the settings from `file` or from the environment."""
    try:
        text = file.read_text(encoding="utf-8") if file else os.environ.get(VARIABLE, "")
    except OSError as error:
        raise Invalid(f"The demo's settings cannot be read: {error}.") from error
    if not text:
        raise Invalid(f"The demo has no settings: set {VARIABLE} to a JSON object or name a file with --settings.")
    return parse(text)


def run(phase: str, settings: Settings) -> phases.Result:
    """Return the phase's result with its name, the seconds that it took, and the trace id of its requests."""
    driver = Driver(settings.host, settings.port, trace_id=settings.trace_id)
    print(f"{phase}: {'/'.join(settings.keys)} at {driver.address}", file=sys.stderr)
    start = time.perf_counter()
    try:
        result = PHASES[phase](settings, driver)
    except httpx.TransportError as error:
        raise phases.PhaseFailed(
            f"Nothing answers at {driver.address} ({error}). Check the orchestrator's host and port, and that it is up."
        ) from error
    except json.JSONDecodeError as error:
        raise phases.PhaseFailed(
            f"What answers at {driver.address} is no orchestrator: its answer is not JSON. Check its host and port."
        ) from error
    seconds = round(time.perf_counter() - start, 3)
    return {"phase": phase, "seconds": seconds, "trace_id": driver.trace_id, **result}


if __name__ == "__main__":
    # Standard output carries the result alone.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.exit(main())
