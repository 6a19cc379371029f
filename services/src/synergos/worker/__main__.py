"""The worker's process: REST on port 5000, training messages on port 8020."""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from synergos import cli, logs
from synergos.worker.tree import produced, reset

COMMAND_PORT, DATA_PORT = 5000, 8020


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the worker until it is told to stop, or `reset` what runs produced; ends the process."""
    options = cli.parse(cli.parser("worker"), argv)
    root = Path(os.environ.get("SYNERGOS_ROOT", "/worker"))
    if options.command == "reset":
        sys.exit(_reset(root / "outputs", options.dry_run))
    logs.configure(options, "worker")
    cli.limit_hardware(options)
    # The numerical libraries come with these and read their limits once, so they wait for the line above.
    from synergos.federation import port
    from synergos.federation.sessions import Sessions
    from synergos.server import serve
    from synergos.worker.app import create_app

    sessions = Sessions()
    # An idle worker does without torch and scikit-learn: they are loaded while the first data is being prepared.
    app = create_app(root / "data", root / "outputs", sessions, options.minimum_rows, _warm_up)
    serve([(app, COMMAND_PORT), (port.create_app(sessions), DATA_PORT)])


def _warm_up() -> None:
    from synergos.federation import warm_up
    from synergos.worker import metrics

    del metrics  # loaded, which is all
    warm_up()


def _reset(outputs: Path, dry_run: bool) -> int:
    if not dry_run and (busy := _busy()):
        print(f"The worker is busy ({busy}): wait for its jobs, or restart it if nobody uses it.", file=sys.stderr)
        return 1
    try:
        for path in produced(outputs):
            print(path)
        if not dry_run:
            reset(outputs)
    except OSError as error:
        print(f"Not everything could be deleted: {error}.", file=sys.stderr)
        return 1
    return 0


def _busy() -> str:
    """Return what the running worker is at; nothing if it idles or is not running."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{COMMAND_PORT}/health", timeout=5) as reply:
            state = json.load(reply)
    except OSError:
        return ""
    return ", ".join(f"{state[kind]} {kind}" for kind in ("jobs", "sessions") if state[kind])


if __name__ == "__main__":
    main()
