"""The process of a TTP: the orchestrator's REST on 5000 and the data port on 8020; in a cluster, jobs from a broker."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fastapi import APIRouter, FastAPI

from synergos import __version__, artefacts, cli, logs
from synergos.errors import SynergosError
from synergos.orchestrator.app import create_app
from synergos.orchestrator.database import Database
from synergos.orchestrator.grids import OneGrid
from synergos.orchestrator.reset import reset
from synergos.rest import create_api
from synergos.server import serve
from synergos.tracking import tracker
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
        if options.queue is not None:
            _serve_queue(engine, options, outputs, lock)
        app = create_app(
            OneGrid(engine), Database(url), lock, os.environ.get("MLFLOW_TRACKING_URI", ""), tracker.settings()
        )
    except (SynergosError, OSError) as error:
        sys.exit(f"synergos-ttp: {error}")
    serve(
        [(app, REST_PORT), (_data_port(), DATA_PORT)],
        started=engine.warm_up,
        # The job under way is not told: it goes on at the next start, as after a kill.
        stopping=app.state.jobs.stop,
    )


def _serve_queue(engine: GridEngine, options: cli.Options, outputs: Path, lock: Path) -> NoReturn:
    # Imported here: a TTP that is asked by REST needs no broker.
    from synergos.queue import CREDENTIALS, Address
    from synergos.ttp.queued import QueuedGrid

    assert options.queue is not None
    address = Address.read(*options.queue, Path(os.environ.get("SYNERGOS_QUEUE_CREDENTIALS", CREDENTIALS)))
    grid = QueuedGrid(engine, options, address, outputs, lock, DATA_PORT)
    routes = artefacts.create_router(grid.store, grid.store.allowed, removable=True)

    def start() -> None:
        grid.start()
        engine.warm_up()

    serve([(grid.state_app(), REST_PORT), (_data_port(routes), DATA_PORT)], started=start, stopping=grid.stop)


def _data_port(*routes: APIRouter) -> FastAPI:
    app = create_api("Synergos TTP data port")
    for router in routes:
        app.include_router(router)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    return app


if __name__ == "__main__":
    main()
