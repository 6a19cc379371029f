"""Teardown takes everything of the grid and nothing else; what it is told to keep is there again afterwards."""

from __future__ import annotations

from pathlib import Path

import docker
from conftest import CONTAINERS, ROOT, SECRETS, TIER, Graylog, MLflow, eventually, grid_leftovers, playbook, started

STATE = Path("/var/lib/synergos") / TIER


def test_kept_data_are_there_again(client: docker.DockerClient, graylog: Graylog, mlflow: MLflow) -> None:
    query = 'NOT logger:"SYS_*" AND project_id:*'
    lines, experiments = graylog.count(query), mlflow.experiments()
    (runs,) = (len(mlflow.runs(each)) for name, each in experiments.items() if name == "demo_>_breast_cancer_>_model")
    assert lines and runs

    done = playbook("teardown", "-e", "tier=synergos_plus", "-e", "keep_data=true")
    assert done.rc == 0, done.output
    assert not started(client)
    back = playbook("synplus")
    assert back.rc == 0, back.output
    assert set(started(client)) == set(CONTAINERS)
    # The password is the old one, or this would be refused.
    assert eventually(lambda: graylog.count(query) >= lines)
    assert mlflow.experiments() == experiments
    assert len(mlflow.runs(experiments["demo_>_breast_cancer_>_model"])) == runs
    again = playbook("synplus")
    assert again.rc == 0 and again.changed == 0, again.output


def test_teardown_leaves_nothing(client: docker.DockerClient) -> None:
    assert STATE.exists() and SECRETS.exists()
    first = playbook("teardown", "-e", "tier=synergos_plus")
    assert first.rc == 0 and first.changed == 1, first.output
    second = playbook("teardown", "-e", "tier=synergos_plus")
    assert second.rc == 0 and second.changed == 0, second.output
    assert grid_leftovers(client, TIER) == []
    for folder in (STATE, SECRETS, ROOT / "outputs" / TIER, ROOT / "metadata" / TIER):
        assert not folder.exists()
