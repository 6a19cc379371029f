"""Deletes what runs produced."""

from __future__ import annotations

import shutil
from pathlib import Path

from synergos.orchestrator.database import Database
from synergos.orchestrator.kinds import KINDS
from synergos.orchestrator.ledger import Ledger
from synergos.orchestrator.queue import exclusive
from synergos.tracking.outbox import Outbox


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
        if count := Outbox(records).count():
            print(f"{count} entr{'ies' if count > 1 else 'y'} that MLflow does not have yet")
        trees = sorted(outputs.iterdir())
        for tree in trees:
            print(tree)
        if dry_run:
            return
        for kind in KINDS:
            records.clear(kind)
        Ledger(records).clear()
        Outbox(records).clear()
        for tree in trees:
            if tree.is_dir() and not tree.is_symlink():
                shutil.rmtree(tree)
            else:
                tree.unlink()


def _print_count(count: int, kind: str) -> None:
    print(f"{count} {kind} record{'s' if count > 1 else ''}")
