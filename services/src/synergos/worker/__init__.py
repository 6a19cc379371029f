"""A participant's node: prepares its own data, tells the orchestrator its shape, and keeps its rows to itself."""
