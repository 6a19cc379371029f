"""Where records are kept: one table per kind, the ids as columns, the rest of a record as JSON."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from synergos.errors import Invalid, NotFound, SynergosError
from synergos.orchestrator.kinds import KINDS, RUN, SCOPE, Key, Kind

Body = dict[str, Any]

METADATA = sa.MetaData(
    naming_convention={
        "uq": "uq_%(table_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)


def _table(kind: Kind) -> sa.Table:
    # An id column that does not lead the unique index needs its own, or each cascade would scan the table.
    indexed = [name for name in kind.key[1:] if any(parent.key == (name,) for parent in kind.parents)]
    return sa.Table(
        kind.name,
        METADATA,
        sa.Column("doc_id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String(128), nullable=False, index=name in indexed) for name in kind.key),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.UniqueConstraint(*kind.key),
        *(
            sa.ForeignKeyConstraint(parent.key, [f"{parent.name}.{name}" for name in parent.key], ondelete="CASCADE")
            for parent in kind.parents
        ),
        sqlite_autoincrement=True,
    )


_TABLES = {kind: _table(kind) for kind in KINDS}

# Jobs belong to no record: what happened stays true when a record is gone. See `ledger`.
JOBS = sa.Table(
    "Job",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("process", sa.String(16), nullable=False),
    *(sa.Column(name, sa.String(128)) for name in SCOPE),
    sa.Column("order", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created_at", sa.DateTime, nullable=False),
    sa.Column("started_at", sa.DateTime),
    sa.Column("ended_at", sa.DateTime),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("current", sa.JSON(none_as_null=True)),
    sa.Column("finished", sa.JSON, nullable=False),
    sa.Column("trace_id", sa.String(32)),
    sa.UniqueConstraint("job_id"),
    sqlite_autoincrement=True,
)
ROUNDS = sa.Table(
    "Round",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("expt_id", sa.String(128), nullable=False),
    sa.Column("run_id", sa.String(128), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("job_id", "expt_id", "run_id", "round"),
    sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)
# What other grids do of a job, and what they answered. See `parts`.
PARTS = sa.Table(
    "Part",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("part", sa.String(400), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("grid", sa.Integer),
    sa.Column("ttp", sa.String(128)),
    sa.Column("answer", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("job_id", "part"),
    sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)
# The trials of searches. See `synergos.search.trials`.
TRIALS = sa.Table(
    "Trial",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String(32), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("run_id", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("body", sa.JSON, nullable=False),
    sa.UniqueConstraint("job_id", "number"),
    sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)
# What MLflow has yet to be told, and of which trainings: see `synergos.tracking.outbox`.
TRACKS = sa.Table(
    "Track",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("track_id", sa.String(32), nullable=False),
    sa.Column("job_id", sa.String(32), nullable=False),
    *(sa.Column(name, sa.String(128), nullable=False) for name in RUN.key),
    sa.Column("rounds", sa.Integer, nullable=False),
    sa.Column("dropped", sa.Integer, nullable=False),
    sa.Column("status", sa.String(16)),
    sa.Column("mlflow_id", sa.String(64)),
    sa.Column("validated", sa.JSON, nullable=False),
    sa.UniqueConstraint("track_id"),
    sqlite_autoincrement=True,
)
OUTBOX = sa.Table(
    "Outbox",
    METADATA,
    sa.Column("doc_id", sa.Integer, primary_key=True),
    sa.Column("track_id", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.ForeignKeyConstraint(["track_id"], ["Track.track_id"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)


class StorageFailure(SynergosError):
    """A database or disk that does not take or give data; nothing was changed."""

    status = 507


@dataclass(frozen=True)
class Record:
    """One stored record: ids, what the client sent, and what the server added."""

    kind: Kind
    doc_id: int
    key: Key
    body: Body
    created_at: datetime = field(compare=False)


class Records:
    """What can be done with records inside one transaction.

    Attributes:
        connection: the transaction.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def select(self, kind: Kind, **ids: str | None) -> list[Record]:
        """Return the records that match all `ids` that are not None, oldest first."""
        table = _TABLES[kind]
        given = [table.c[name] == value for name, value in ids.items() if value is not None]
        rows = self.connection.execute(sa.select(table).where(*given).order_by(table.c.doc_id)).mappings()
        return [
            Record(kind, row["doc_id"], {name: row[name] for name in kind.key}, row["body"], row["created_at"])
            for row in rows
        ]

    def find(self, kind: Kind, key: Key) -> Record | None:
        """Return the record of `key` (ids that are no part of the kind's key are ignored), or None."""
        return next(iter(self.select(kind, **{name: key[name] for name in kind.key})), None)

    def get(self, kind: Kind, key: Key) -> Record:
        """Return the record of `key` or raise `NotFound`."""
        record = self.find(kind, key)
        if record is None:
            raise NotFound(f"{kind.label(key)} does not exist.")
        return record

    def put(self, kind: Kind, key: Key, body: Body) -> Record:
        """Store `body` as the record of `key`, in place of an older one, which keeps its `doc_id`.

        Raises:
            NotFound: a record that this one belongs to does not exist.
        """
        table = _TABLES[kind]
        key = {name: key[name] for name in kind.key}
        values = {"body": body, "created_at": datetime.now(UTC).replace(tzinfo=None, microsecond=0)}
        old = self.find(kind, key)
        if old is not None:
            self.connection.execute(sa.update(table).where(table.c.doc_id == old.doc_id).values(values))
        else:
            for parent in kind.parents:
                if self.find(parent, key) is None:
                    raise NotFound(f"{parent.label(key)} does not exist: create it before its {kind.plural}.")
            self.connection.execute(sa.insert(table).values({**key, **values}))
        return self.get(kind, key)

    def change(self, record: Record, body: Body) -> Record:
        """Exchange what a stored record holds; its age stays."""
        table = _TABLES[record.kind]
        self.connection.execute(sa.update(table).where(table.c.doc_id == record.doc_id).values(body=body))
        return self.get(record.kind, record.key)

    def delete(self, record: Record) -> None:
        """Delete a record and everything that belongs to it."""
        table = _TABLES[record.kind]
        self.connection.execute(sa.delete(table).where(table.c.doc_id == record.doc_id))

    def count(self, kind: Kind) -> int:
        """Return the number of records."""
        return self.connection.execute(sa.select(sa.func.count()).select_from(_TABLES[kind])).scalar_one()

    def clear(self, kind: Kind) -> None:
        """Delete all records of a kind and everything that belongs to them."""
        self.connection.execute(sa.delete(_TABLES[kind]))


class Database:
    """The records of one orchestrator; safe for several threads and processes.

    Args:
        url: SQLAlchemy URL, for example `sqlite:////orchestrator/data/database.db`.
    """

    def __init__(self, url: str) -> None:
        # As many connections as there are threads that answer requests: none waits for another's transaction to end.
        self._engine = sa.create_engine(url, pool_size=40, max_overflow=10)
        # SQLite itself lets writers try again after pauses: many of them would wait for seconds.
        self._turn = threading.Lock()
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _connect_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)

    def migrate(self) -> None:
        """Bring the tables to this version's form; raises `Invalid` if that is not possible."""
        config = Config()
        config.set_main_option("script_location", "synergos.orchestrator:migrations")
        try:
            with self._writing().begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise Invalid(f"The database {self._where} was made by another version of Synergos: {error}.") from error
        except sa.exc.DatabaseError as error:
            raise Invalid(f"The database {self._where} cannot be used: {error.orig}.") from error

    @contextmanager
    def read(self) -> Iterator[Records]:
        """Open a transaction that sees one state of all records; raises `StorageFailure`."""
        with self._named(), self._engine.begin() as connection:
            yield Records(connection)

    @contextmanager
    def write(self) -> Iterator[Records]:
        """Open a transaction that stores everything or, on an exception, nothing; one at a time.

        Raises:
            StorageFailure: the disk is full, the database is read-only or broken, or another process holds it.
        """
        with self._turn, self._named(), self._writing().begin() as connection:
            yield Records(connection)

    def ping(self) -> None:
        """Raise an error if the database does not answer."""
        with self.read() as records:
            records.count(KINDS[0])

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @property
    def _where(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DatabaseError as error:
            # The other classes are defects of this program.
            if type(error) not in (sa.exc.OperationalError, sa.exc.DatabaseError):
                raise
            raise StorageFailure(
                f"The database {self._where} cannot be used: {error.orig}. Nothing was changed; "
                "look after its disk and send the request again."
            ) from error

    def _writing(self) -> sa.Engine:
        return self._engine.execution_options(writing=True)


def _connect_sqlite(connection: Any, _: Any) -> None:
    # The driver's own transactions start too late (at the first write): `_begin_sqlite` starts them.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "busy_timeout=30000", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes its lock before it reads: what it read is still true when it writes.
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
