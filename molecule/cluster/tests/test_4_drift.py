"""What a hand did to the cluster is named by check mode and put right, in one converge."""

from __future__ import annotations

import docker
from conftest import Broker, Director, playbook, started


def test_drift_is_named_and_repaired(client: docker.DockerClient, broker: Broker, director: Director) -> None:
    before = started(client)
    client.containers.get("sync_ttp_2").stop()
    old = client.containers.get("sync_director")
    labels, image = old.labels, old.image.id
    old.remove(force=True)
    client.containers.create(image, name="sync_director", labels=labels, network="synergos_cluster")
    broker.call("DELETE", "queues/%2F/train")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.call("PUT", "permissions/%2F/sync_ttp_1", rights)

    named = playbook("syncluster", "--check", "--diff")
    assert named.rc == 0 and named.changed == 2, named.output
    for what in ("sync_ttp_2", "sync_director", "queue train: state", "user sync_ttp_1: write"):
        assert what in named.output, named.output
    repaired = playbook("syncluster")
    assert repaired.rc == 0, repaired.output
    after = started(client)
    assert {name for name in after if after[name] != before[name]} == {"sync_ttp_2", "sync_director"}
    again = playbook("syncluster")
    assert again.rc == 0 and again.changed == 0, again.output

    # All of it is in use again.
    director.describe("repaired", {"run_1": {}})
    director.align("repaired")
    director.trained("repaired", ["run_1"])
