"""status, cleanup and --limit on a grid that is up."""

from __future__ import annotations

import json
from pathlib import Path

import docker
import requests
from conftest import CONTAINERS, PLAYBOOK, ROOT, TIER, playbook, run, started


def test_status_prints_one_table() -> None:
    done = playbook("status")
    assert done.rc == 0, done.output
    for name, address in CONTAINERS.items():
        row = next(line for line in done.output.splitlines() if f" {name} " in line)
        assert address in row and "healthy" in row


def test_status_answers_a_query_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    done = playbook("status", "-e", "status_query=components[].name", "-e", f"status_file={file}")
    assert done.rc == 0, done.output
    assert "synb_worker_2" in done.output
    status = json.loads(file.read_text())
    assert {component["name"] for component in status["components"]} == set(CONTAINERS) and not status["problems"]


def test_status_ends_non_zero_and_names_what_is_wrong(client: docker.DockerClient) -> None:
    client.containers.get("synb_worker_2").stop(timeout=10)
    try:
        done = playbook("status")
        assert done.rc != 0
        assert "synb_worker_2" in done.text and "exited" in done.text
    finally:
        client.containers.get("synb_worker_2").start()
        assert playbook("synbasic").rc == 0


def test_a_second_run_executes_few_modules() -> None:
    """Seconds differ between machines; what costs them does not: a module execution is half a second of processor."""
    done = playbook("synbasic", "-vvv")
    assert done.rc == 0 and done.changed == 0, done.output
    assert done.output.count("Using module file") <= 4


def test_scope_and_port_offset_are_options(client: docker.DockerClient) -> None:
    done = playbook("synbasic", "-e", "synergos_worker_data_scope=all", "-e", "synergos_port_offset=1000")
    try:
        assert done.rc == 0, done.output
        assert requests.get("http://127.0.0.1:6001/health", timeout=5).status_code == 200
        listing = client.containers.get("synb_worker_1").exec_run(["ls", "/worker/data/diabetes/dataset"])
        assert listing.output.decode().split() == ["data1", "data2"]
    finally:
        assert playbook("synbasic").rc == 0


def test_a_limited_run_removes_nothing(client: docker.DockerClient) -> None:
    before = started(client)
    for limit in ("synb_engine", "synb_engine,synb_ttp"):
        done = playbook("synbasic", "--limit", f"localhost,{limit}")
        assert done.rc == 0, done.output
        assert done.changed == 0
    assert started(client) == before


def test_a_failed_validation_removes_and_changes_nothing(client: docker.DockerClient) -> None:
    before = started(client)
    done = playbook("synbasic", "-e", "worker_data_scope=everything", "-e", "ttp_memory=1g")
    assert done.rc != 0
    assert "own, all" in done.text
    assert started(client) == before
    assert client.containers.get("synb_ttp").attrs["HostConfig"]["Memory"] == 2 << 30


def test_a_definition_published_by_an_earlier_run_does_not_count(client: docker.DockerClient, tmp_path: Path) -> None:
    cache = ["env", "ANSIBLE_CACHE_PLUGIN=jsonfile", f"ANSIBLE_CACHE_PLUGIN_CONNECTION={tmp_path}"]
    full = run(*cache, PLAYBOOK, "playbooks/synbasic.yml")
    assert full.rc == 0, full.output
    before = started(client)
    limited = run(*cache, PLAYBOOK, "playbooks/synbasic.yml", "--limit", "localhost,synb_engine,synb_ttp")
    assert limited.rc == 0 and limited.changed == 0, limited.output
    assert started(client) == before


def test_cleanup_lists_asks_and_resets_while_the_grid_stays_up(client: docker.DockerClient) -> None:
    before = started(client)
    models = ROOT / "outputs" / TIER / "synb_ttp/demo"
    assert models.is_dir()

    listed = run("./cleanup.sh", "-V", "--dry-run")
    assert listed.rc == 0 and "demo" in listed.output and models.is_dir(), listed.output
    unanswered = run("./cleanup.sh")
    assert unanswered.rc != 0 and "Nothing was deleted" in unanswered.text and models.is_dir()
    done = run("./cleanup.sh", "--yes")
    assert done.rc == 0, done.output
    assert not models.exists()
    assert not list((ROOT / "outputs" / TIER / "synb_worker_1").iterdir())
    again = run("./cleanup.sh", "--yes")
    assert again.rc == 0 and again.changed == 0, again.output
    assert started(client) == before
