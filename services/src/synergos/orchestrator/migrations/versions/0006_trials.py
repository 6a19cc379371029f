"""The trials of searches."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "Trial",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("value", sa.Float, nullable=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.UniqueConstraint("job_id", "number", name="uq_Trial"),
        sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], name="fk_Trial_Job", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("Trial")
