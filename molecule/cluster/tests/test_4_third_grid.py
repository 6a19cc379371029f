"""A third grid is three more lines of inventory, and goes when they go."""

from __future__ import annotations

import json
from pathlib import Path

import docker
from conftest import CONTAINERS, NODES, PLAYBOOK, ROOT, Broker, Director, Run, begun, run, started

TTP = {"synergos_address": "172.20.0.20", "ttp_command_port": 8000, "ttp_data_port": 11020, "synergos_grid_index": 2}
ADDED = {"worker_1": "172.20.0.21", "worker_2": "172.20.0.22"}
THIRD = {"sync_ttp_3", "sync_worker_1_n3", "sync_worker_2_n3"}
RUNS = {f"run_{number}": {"seed": number, "rounds": 60, "patience": 60} for number in range(1, 7)}


def converge(*more: str) -> Run:
    """Converge the shipped inventory with more of them."""
    folders = {"datasets": "examples", "outputs": "outputs", "metadata": "metadata"}
    here = json.dumps({f"synergos_{name}_dir": str(ROOT / folder) for name, folder in folders.items()})
    options = [option for path in ("inventories/cluster/hosts.yml", *more) for option in ("-i", path)]
    return run(PLAYBOOK, "playbooks/syncluster.yml", *options, "-e", here)


def test_a_third_grid_comes_and_goes(
    client: docker.DockerClient, broker: Broker, director: Director, tmp_path: Path
) -> None:
    before = started(client)
    workers = {
        f"sync_{participant}_n3": {
            "synergos_address": address,
            "synergos_participant": participant,
            "synergos_grid_index": 2,
            "worker_command_port": 5004 + number,
            "worker_data_port": 8024 + number,
        }
        for number, (participant, address) in enumerate(ADDED.items(), 1)
    }
    addition = tmp_path / "third.yml"
    groups = {"ttps": {"sync_ttp_3": TTP}, "workers": workers}
    addition.write_text(json.dumps({f"synergos_cluster_{name}": {"hosts": hosts} for name, hosts in groups.items()}))
    added = converge(str(addition))
    assert added.rc == 0, added.output
    after = started(client)
    assert set(after) == {*CONTAINERS, *THIRD}
    assert {name: after[name] for name in CONTAINERS} == before

    director.describe("three", RUNS, {name: [*hosts, ADDED[name]] for name, hosts in NODES.items()})
    director.align("three")
    director.trained("three", RUNS)
    parts = [part for job in director.jobs("three") for part in job["progress"]["parts"]]
    assert {(part["ttp"], part["grid"]) for part in parts} == {("sync_ttp_1", 0), ("sync_ttp_2", 1), ("sync_ttp_3", 2)}
    assert begun(client, "three", ["sync_ttp_1", "sync_ttp_2", "sync_ttp_3"]) == dict.fromkeys(RUNS, 1)

    removed = converge()
    assert removed.rc == 0, removed.output
    assert started(client) == before
    assert "sync_ttp_3" not in {user["name"] for user in broker.call("GET", "users")}
