"""The process of a Director: the orchestrator's REST and the artefact store on 5000; jobs go to grids by a broker."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from synergos import artefacts, cli, logs
from synergos.artefacts import Keys, Store
from synergos.director.cluster import Cluster
from synergos.errors import SynergosError
from synergos.orchestrator.app import create_app
from synergos.orchestrator.database import Database
from synergos.orchestrator.reset import reset
from synergos.queue import CREDENTIALS, Address
from synergos.server import serve
from synergos.tracking import tracker

REST_PORT = 5000


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM, or do what the command asks for; ends the process with 0, 1 (failure) or 2 (usage)."""
    options = cli.parse(cli.parser("director", resolution=5), argv)
    root = Path(os.environ.get("SYNERGOS_ROOT", "/orchestrator"))
    outputs, lock = root / "outputs", root / "data" / "jobs.lock"
    database = Database(os.environ.get("SYNERGOS_DATABASE_URL", f"sqlite:///{root / 'data' / 'database.db'}"))
    try:
        for folder in (outputs, lock.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if options.command == "reset":
            reset(database, outputs, lock, options.dry_run)
            return
        cli.limit_hardware(options)
        logs.configure(options, "director")
        assert options.queue is not None
        address = Address.read(*options.queue, Path(os.environ.get("SYNERGOS_QUEUE_CREDENTIALS", CREDENTIALS)))
        store, keys = Store(outputs), Keys(root / "data" / "artefacts.key")
        cluster = Cluster(database, address, options.id, store, keys, REST_PORT)
        app = create_app(cluster, database, lock, os.environ.get("MLFLOW_TRACKING_URI", ""), tracker.settings())
    except (SynergosError, OSError) as error:
        sys.exit(f"synergos-director: {error}")
    app.include_router(artefacts.create_router(store, keys.allowed, removable=False))

    def stop() -> None:
        app.state.jobs.stop()
        cluster.close()

    serve([(app, REST_PORT)], started=_warm_up, stopping=stop)


def _warm_up() -> None:
    """Load torch and Optuna: the first search, and the first run that MLflow is told of, would wait for it."""
    for name in ("synergos.federation.parameters", "synergos.search.study"):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
