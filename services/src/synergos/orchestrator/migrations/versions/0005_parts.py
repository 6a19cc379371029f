"""The parts of jobs that other grids do."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "Part",
        sa.Column("doc_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("part", sa.String(400), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("grid", sa.Integer, nullable=True),
        sa.Column("ttp", sa.String(128), nullable=True),
        sa.Column("answer", sa.JSON, nullable=True),
        sa.UniqueConstraint("job_id", "part", name="uq_Part"),
        sa.ForeignKeyConstraint(["job_id"], ["Job.job_id"], name="fk_Part_Job", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("Part")
