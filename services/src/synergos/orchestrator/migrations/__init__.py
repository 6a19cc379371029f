"""Alembic scripts; `synergos.orchestrator.database.Database.migrate` runs them at start."""
