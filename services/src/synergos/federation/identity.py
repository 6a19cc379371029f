"""The one place that touches a private name of Flower.

`flwr.app.Message` refuses to be made outside a task of Flower's own SuperLink unless the process carries a task
identity, which has no public setter. A long-lived worker and TTP are no such task, so this module gives them one.
"""

from __future__ import annotations

from flwr.supercore.task_identity import TaskIdentity


def adopt() -> None:
    """Let this process create Flower messages; an identity that Flower itself has set stays."""
    try:
        _ = TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id
    except RuntimeError:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
