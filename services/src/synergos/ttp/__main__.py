"""The process of a TTP: the orchestrator's REST on 5000 and the data port on 8020."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from synergos import __version__, cli, logs
from synergos.errors import SynergosError
from synergos.orchestrator.app import create_app
from synergos.orchestrator.database import Database
from synergos.orchestrator.grids import OneGrid
from synergos.orchestrator.kinds import KINDS
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.queue import exclusive
from synergos.rest import create_api
from synergos.server import serve
from synergos.ttp.engine import GridEngine

REST_PORT = 5000
DATA_PORT = 8020


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM, or do what the command asks for; ends the process with 0, 1 (failure) or 2 (usage)."""
    options = cli.parse(cli.parser("ttp", resolution=5), argv)
    root = Path(os.environ.get("SYNERGOS_ROOT", "/orchestrator"))
    outputs, lock = root / "outputs", root / "data" / "jobs.lock"
    url = os.environ.get("SYNERGOS_DATABASE_URL", f"sqlite:///{root / 'data' / 'database.db'}")
    try:
        for folder in (outputs, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if options.command == "reset":
            reset(Database(url), outputs, lock, options.dry_run)
            return
        # Set before torch is loaded, which happens in the background.
        cli.limit_hardware(options)
        logs.configure(options, "ttp")
        engine = GridEngine(outputs)
        app = create_app(OneGrid(engine), Database(url), lock)
    except (SynergosError, OSError) as error:
        sys.exit(f"synergos-ttp: {error}")
    serve(
        [(app, REST_PORT), (_data_port(), DATA_PORT)],
        started=engine.warm_up,
        # The job under way is not told: it goes on at the next start, as after a kill.
        stopping=app.state.jobs.stop,
    )


def reset(database: Database, outputs: Path, lock: Path, dry_run: bool) -> None:
    """Delete all records, jobs and outputs, and print each target; with `dry_run` only print.

    Raises:
        synergos.errors.Busy: a job is running.
    """
    database.migrate()
    with exclusive(lock), database.write() as records:
        for kind in KINDS:
            if count := records.count(kind):
                _print_count(count, kind.name)
        if count := Ledger(records).count():
            _print_count(count, "Job")
        trees = sorted(outputs.iterdir())
        for tree in trees:
            print(tree)
        if dry_run:
            return
        for kind in KINDS:
            records.clear(kind)
        Ledger(records).clear()
        for tree in trees:
            if tree.is_dir() and not tree.is_symlink():
                shutil.rmtree(tree)
            else:
                tree.unlink()


def _print_count(count: int, kind: str) -> None:
    print(f"{count} {kind} record{'s' if count > 1 else ''}")


def _data_port() -> FastAPI:
    app = create_api("Synergos TTP data port")

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    return app


if __name__ == "__main__":
    main()
