"""What MLflow has yet to be told, and of which trainings."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "Track",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("track_id", sa.String(32), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("collab_id", sa.String(128), nullable=False),
        sa.Column("project_id", sa.String(128), nullable=False),
        sa.Column("expt_id", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("dropped", sa.Integer, nullable=False),
        sa.Column("status", sa.String(16), nullable=True),
        sa.Column("mlflow_id", sa.String(64), nullable=True),
        sa.Column("validated", sa.JSON, nullable=False),
        sa.UniqueConstraint("track_id", name="uq_Track"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "Outbox",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("track_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.ForeignKeyConstraint(["track_id"], ["Track.track_id"], name="fk_Outbox_Track", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_Outbox_track_id", "Outbox", ["track_id"])


def downgrade() -> None:
    op.drop_table("Outbox")
    op.drop_table("Track")
