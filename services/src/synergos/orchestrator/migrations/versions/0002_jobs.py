"""Jobs of the grid and the rounds of trainings."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "Job",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("process", sa.String(16), nullable=False),
        sa.Column("collab_id", sa.String(128), nullable=True),
        sa.Column("project_id", sa.String(128), nullable=True),
        sa.Column("expt_id", sa.String(128), nullable=True),
        sa.Column("run_id", sa.String(128), nullable=True),
        sa.Column("participant_id", sa.String(128), nullable=True),
        sa.Column("order", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=True),
        sa.Column("ended_at", sa.DateTime, nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("current", sa.JSON, nullable=True),
        sa.Column("finished", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", name="uq_Job"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "Round",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("expt_id", sa.String(128), nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", "expt_id", "run_id", "round", name="uq_Round"),
        sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], name="fk_Round_Job", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("Round")
    op.drop_table("Job")
