"""Migrations and the guarantees of a transaction."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from synergos.errors import Invalid, NotFound
from synergos.orchestrator.database import METADATA, Database
from synergos.orchestrator.kinds import COLLABORATION, PROJECT, RUN
from synergos.orchestrator.ledger import Ledger

C1 = {"collab_id": "c1"}


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'database.db'}"


def test_migrations_from_empty_make_the_tables_of_the_code(tmp_path: Path) -> None:
    Database(url(tmp_path)).migrate()
    with sa.create_engine(url(tmp_path)).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), METADATA) == []


def test_migrating_again_keeps_everything(tmp_path: Path) -> None:
    first = Database(url(tmp_path))
    first.migrate()
    with first.write() as records:
        stored = records.put(COLLABORATION, C1, {"x": 1})
    first.close()
    second = Database(url(tmp_path))
    second.migrate()
    with second.read() as records:
        assert records.get(COLLABORATION, C1) == stored


def test_a_database_of_the_first_version_keeps_everything(tmp_path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "synergos.orchestrator:migrations")
    with sa.create_engine(url(tmp_path)).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO Collaboration (collab_id, created_at, body) VALUES ('c1', '2026-01-31 12:00:00', '{\"x\": 1}')"
        )
    database = Database(url(tmp_path))
    database.migrate()
    with database.write() as records:
        [record] = records.select(COLLABORATION)
        assert (record.key, record.body, record.created_at.year) == (C1, {"x": 1}, 2026)
        assert Ledger(records).add("align", {**C1, "project_id": "p1"}, {}).state == "queued"


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    database.migrate()
    with sqlite3.connect(tmp_path / "database.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Invalid, match=r"another version of Synergos.*9999"):
        database.migrate()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "database.db").write_text("this is a note, not a database\n" * 100)
    with pytest.raises(Invalid, match=re.escape(str(tmp_path))):
        Database(url(tmp_path)).migrate()


def test_a_transaction_stores_all_or_nothing(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    database.migrate()
    with pytest.raises(NotFound, match="Experiment"), database.write() as records:
        records.put(COLLABORATION, C1, {})
        records.put(PROJECT, {**C1, "project_id": "p1"}, {})
        records.put(RUN, {**C1, "project_id": "p1", "expt_id": "e1", "run_id": "r1"}, {})
    with database.read() as records:
        assert records.select(COLLABORATION) == []


def test_doc_ids_are_never_used_twice(tmp_path: Path) -> None:
    database = Database(url(tmp_path))
    database.migrate()
    with database.write() as records:
        first = records.put(COLLABORATION, C1, {})
        records.delete(first)
        assert records.put(COLLABORATION, C1, {}).doc_id == first.doc_id + 1
