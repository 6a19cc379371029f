"""Serve MLflow from /mlflow, or take it back to its beginnings.

Usage: synergos-mlops [serve] | synergos-mlops reset [--dry-run]

`serve` runs MLflow's Flask application in one process: the FastAPI one around it adds the gateway to language models
and costs 50 MB, and each further process 110 MB. What a site may set in the environment is MLflow's own:
MLFLOW_SERVER_ALLOWED_HOSTS, MLFLOW_SERVER_CORS_ALLOWED_ORIGINS, MLFLOW_SERVER_X_FRAME_OPTIONS.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("MLOPS_ROOT", "/mlflow"))
PRISTINE = Path("/opt/mlops/pristine.db")
PORT = 5500
ARTIFACTS = "mlflow-artifacts:/"


def main(argv: list[str] | None = None) -> None:
    """Do what the command says; ends the process with 0, 1 (failure) or 2 (usage)."""
    parser = argparse.ArgumentParser(prog="synergos-mlops", description="MLflow for a Synergos grid.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help="default: serve")
    commands.add_parser("serve", help=f"serve on port {PORT}")
    delete = commands.add_parser("reset", help="delete all experiments, models and artifacts")
    delete.add_argument("--dry-run", action="store_true", help="only print what would be deleted, one per line")
    options = parser.parse_args(argv)
    try:
        if options.command == "reset":
            reset(ROOT, options.dry_run)
        else:
            serve(ROOT)
    except (OSError, sqlite3.Error, Refused) as error:
        sys.exit(f"synergos-mlops: {error}")


class Refused(Exception):
    """Something that would do harm; the message says what to do instead."""


def serve(root: Path) -> None:
    """Bring the database to this version's form and become the server."""
    artifacts = root / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    migrate(root / "mlflow.db")
    os.environ.update(
        _MLFLOW_SERVER_FILE_STORE=f"sqlite:///{root / 'mlflow.db'}",
        _MLFLOW_SERVER_ARTIFACT_ROOT=ARTIFACTS,
        _MLFLOW_SERVER_ARTIFACT_DESTINATION=str(artifacts),
        _MLFLOW_SERVER_SERVE_ARTIFACTS="true",
        _MLFLOW_SGI_NAME="gunicorn",
    )
    options = ["--bind", f"0.0.0.0:{PORT}", "--workers", "1", "--threads", "8", "--keep-alive", "30", "--timeout", "0"]
    options += [
        "--graceful-timeout",
        "2",
        "--worker-tmp-dir",
        "/dev/shm",
        "--no-control-socket",
        "--config",
        "python:synergos_mlops",
    ]
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    os.execv(gunicorn, [gunicorn, *options, "mlflow.server:app"])


def post_worker_init(_: Any) -> None:
    """Open the database before the first request comes; gunicorn calls this."""
    from mlflow.server import handlers

    handlers._get_tracking_store()
    handlers._get_model_registry_store()


def create(path: str) -> None:
    """Make the database of a server that has seen nothing."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{path}", ARTIFACTS)


def migrate(path: Path) -> None:
    """Bring the database to this version's form; an older one is kept beside it. Raises `Refused`."""
    part = path.with_suffix(".part")
    if not path.exists():
        shutil.copyfile(PRISTINE, part)
        part.replace(path)
    old, new = _revision(path), _revision(PRISTINE)
    if old != new:
        if old not in _known():
            raise Refused(
                f"{path} has the form {old}, which this version of MLflow does not know: a newer one made it. Use the "
                "image of that one, or move the file away to begin anew."
            )
        kept = path.with_name(f"mlflow-{old}.db")
        print(f"{path}: from form {old} to {new}; the old one is kept as {kept}", flush=True)
        # On a copy, for an upgrade is more than one transaction.
        for name in (part, kept):
            name.unlink(missing_ok=True)
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(name)) as target:
                source.backup(target)
        _upgrade(part)
        for leftover in ("-wal", "-shm"):
            path.with_name(path.name + leftover).unlink(missing_ok=True)
        part.replace(path)
    with closing(sqlite3.connect(path)) as database:
        # Readers and the writer do not wait for each other.
        database.execute("PRAGMA journal_mode=WAL")


def _upgrade(path: Path) -> None:
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(f"sqlite:///{path}")
    _upgrade_db(engine)
    engine.dispose()
    with closing(sqlite3.connect(path)) as database:
        # One file that is complete.
        database.execute("PRAGMA journal_mode=DELETE")


def reset(root: Path, dry_run: bool) -> None:
    """Delete everything and print each target; with `dry_run` only print. The server may run."""
    artifacts = sorted((root / "artifacts").iterdir()) if (root / "artifacts").is_dir() else []
    if (root / "mlflow.db").exists():
        _reset_database(root / "mlflow.db", dry_run)
    for target in artifacts:
        print(target)
        if not dry_run:
            with suppress(FileNotFoundError):
                shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()


def _reset_database(path: Path, dry_run: bool) -> None:
    with closing(sqlite3.connect(f"file:{path}", uri=True, timeout=30, isolation_level=None)) as database:
        for name, runs in database.execute(
            "SELECT experiments.name, COUNT(run_uuid) FROM experiments LEFT JOIN runs USING (experiment_id) "
            "GROUP BY experiment_id HAVING experiment_id != 0 OR COUNT(run_uuid) ORDER BY experiments.name"
        ):
            print(f"experiment {name}: {runs} run{'' if runs == 1 else 's'}")
        for (name,) in database.execute("SELECT name FROM registered_models ORDER BY name"):
            print(f"registered model {name}")
        if dry_run:
            return
        database.execute(f"ATTACH 'file:{PRISTINE}?mode=ro' AS pristine")
        database.execute("BEGIN IMMEDIATE")
        tables = "SELECT name FROM pristine.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (table,) in database.execute(tables).fetchall():
            # By name: a database that was upgraded may have another order.
            columns = ", ".join(f'"{row[1]}"' for row in database.execute(f'PRAGMA pristine.table_info("{table}")'))
            database.execute(f'DELETE FROM main."{table}"')
            database.execute(f'INSERT INTO main."{table}" ({columns}) SELECT {columns} FROM pristine."{table}"')
        database.execute("COMMIT")


def _revision(path: Path) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def _known() -> set[str]:
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return {script.revision for script in ScriptDirectory.from_config(_get_alembic_config("")).walk_revisions()}


if __name__ == "__main__":
    main()
