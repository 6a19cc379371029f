"""One table per kind of record."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_PROJECT = ("collab_id", "project_id")
_EXPERIMENT = (*_PROJECT, "expt_id")
_RUN = (*_EXPERIMENT, "run_id")
_MEMBER = (*_PROJECT, "participant_id")
_RESULT = (*_RUN, "participant_id")

# table, key, parents with their keys
_TABLES: tuple[tuple[str, tuple[str, ...], dict[str, tuple[str, ...]]], ...] = (
    ("Collaboration", ("collab_id",), {}),
    ("Project", _PROJECT, {"Collaboration": ("collab_id",)}),
    ("Experiment", _EXPERIMENT, {"Project": _PROJECT}),
    ("Run", _RUN, {"Experiment": _EXPERIMENT}),
    ("Participant", ("participant_id",), {}),
    ("Registration", _MEMBER, {"Project": _PROJECT, "Participant": ("participant_id",)}),
    ("Tag", _MEMBER, {"Registration": _MEMBER}),
    ("Alignment", _MEMBER, {"Tag": _MEMBER}),
    ("Model", _RUN, {"Run": _RUN}),
    ("Validation", _RESULT, {"Run": _RUN, "Participant": ("participant_id",)}),
    ("Prediction", _RESULT, {"Run": _RUN, "Participant": ("participant_id",)}),
)


def upgrade() -> None:
    for table, key, parents in _TABLES:
        op.create_table(
            table,
            sa.Column("doc_id", sa.Integer, primary_key=True),
            *(sa.Column(name, sa.String(128), nullable=False) for name in key),
            sa.Column("created_at", sa.DateTime, nullable=False),
            sa.Column("body", sa.JSON, nullable=False),
            sa.UniqueConstraint(*key, name=f"uq_{table}"),
            *(
                sa.ForeignKeyConstraint(
                    names, [f"{parent}.{name}" for name in names], name=f"fk_{table}_{parent}", ondelete="CASCADE"
                )
                for parent, names in parents.items()
            ),
            sqlite_autoincrement=True,
        )
        if "Participant" in parents:
            op.create_index(f"ix_{table}_participant_id", table, ["participant_id"])


def downgrade() -> None:
    for table, _, _ in reversed(_TABLES):
        op.drop_table(table)
