"""Experiments in MLflow: what a training does is sent there while it goes on.

`tracker` takes in what happens, `outbox` keeps it in the orchestrator's database, `sender` gives it to MLflow, and
`model` is how a model that was stored there is used again; it needs nothing of the others.
"""
