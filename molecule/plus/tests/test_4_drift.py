"""What a hand did to the tier's own components is named and put right."""

from __future__ import annotations

import docker
import pytest
from conftest import playbook, started


@pytest.mark.parametrize("victim", ["elasticsearch", "synp_mlops"])
def test_a_killed_component_is_started_again(client: docker.DockerClient, victim: str) -> None:
    before = started(client)
    client.containers.get(victim).kill()
    named = playbook("synplus", "--check", "--diff")
    assert named.rc == 0 and f"container {victim}:" in named.output and named.changed >= 1, named.output
    repaired = playbook("synplus")
    assert repaired.rc == 0, repaired.output
    after = started(client)
    assert {name for name in after if after[name] != before[name]} == {victim}
    again = playbook("synplus")
    assert again.rc == 0 and again.changed == 0, again.output
