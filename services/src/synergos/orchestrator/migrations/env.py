"""Runs the migrations on the connection that the caller opened, inside its transaction."""

from alembic import context

from synergos.orchestrator.database import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
