"""What teardown keeps is there again afterwards; cleanup deletes what it is told to, and teardown the rest."""

from __future__ import annotations

from pathlib import Path

import docker
from conftest import (
    CONTAINERS,
    ROOT,
    SECRETS,
    TIER,
    Graylog,
    MLflow,
    eventually,
    grid_leftovers,
    playbook,
    run,
    started,
)

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


def test_cleanup_spares_logs_and_experiments_unless_told(
    said: str, client: docker.DockerClient, graylog: Graylog, mlflow: MLflow
) -> None:
    before = started(client)
    lines = 'project_id:"breast_cancer"'
    assert graylog.count(lines) and mlflow.experiments()

    listed = run("./cleanup.sh", "-V", "--dry-run", "--tier", TIER, "--logs", "--experiments")
    assert listed.rc == 0 and "demo_>_breast_cancer_>_model" in listed.output and "synp_logger" in listed.output
    assert graylog.count(lines) and "demo_>_breast_cancer_>_model" in mlflow.experiments()
    done = run("./cleanup.sh", "--yes", "--tier", TIER)
    assert done.rc == 0, done.output
    assert not (ROOT / "outputs" / TIER / "synp_ttp/demo").exists()
    assert graylog.count(lines) and "demo_>_breast_cancer_>_model" in mlflow.experiments()

    done = run("./cleanup.sh", "--yes", "--tier", TIER, "--logs", "--experiments")
    assert done.rc == 0, done.output
    assert eventually(lambda: graylog.count(lines) == 0)
    assert list(mlflow.experiments()) == ["Default"]
    assert started(client) == before
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
