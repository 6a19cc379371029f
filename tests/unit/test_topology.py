"""What is said of a cluster's inventory that cannot work, and that what can work is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.synergos.grid.plugins.filter.topology import topology


def tier(grids: int = 2, **changes: dict[str, Any] | None) -> dict[str, Any]:
    """A cluster of so many grids with two participants; None takes a host away, a dict changes its variables."""
    hosts: dict[str, Any] = {name: {"group_names": [name]} for name in ("engines", "mq", "director")}
    for grid in range(grids):
        hosts[f"ttp_{grid}"] = {"group_names": ["ttp"], "synergos_grid_index": grid}
        for name in ("a", "b"):
            own = {"synergos_grid_index": grid, "synergos_participant": name}
            hosts[f"{name}_{grid}"] = {"group_names": ["worker"], **own}
    for host, variables in changes.items():
        if variables is None:
            del hosts[host]
        else:
            hosts[host] = {**hosts.get(host, {}), **variables}
    return hosts


def problems(**changes: Any) -> list[str]:
    hosts = tier(**changes)
    return topology(list(hosts), hosts)


@pytest.mark.parametrize("grids", [1, 2, 3, 12])
def test_any_number_of_grids_is_right(grids: int) -> None:
    assert problems(grids=grids) == []


def test_an_index_may_be_text() -> None:
    assert problems(ttp_1={"synergos_grid_index": "1"}) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grids": 0}, ["nothing takes jobs from the broker: add hosts to group ttp"]),
        ({"ttp_1": {"synergos_grid_index": None}}, ["ttp_1 has no synergos_grid_index: set it"]),
        ({"a_1": {"synergos_grid_index": "second"}}, ["a_1 has the synergos_grid_index 'second': set it"]),
        ({"b_1": {"synergos_grid_index": -1}}, ["b_1 has the synergos_grid_index '-1': set it"]),
        (
            {"ttp_2": {"group_names": ["ttp"], "synergos_grid_index": 0}},
            ["ttp_0 and ttp_2 have the same synergos_grid_index, 0: give each TTP one of its own"],
        ),
        (
            {"grids": 3, "ttp_1": None, "a_1": None, "b_1": None},
            ["no TTP has synergos_grid_index 1, but ttp_2 has 2: count grids from 0, without gaps"],
        ),
        (
            {"a_1": None, "b_1": None},
            ["ttp_1 has synergos_grid_index 1, but no worker has it: add one per participant"],
        ),
        ({"b_1": None}, ["b has no worker with synergos_grid_index 1, as others have"]),
        (
            {"b_1": {"synergos_participant": "a"}},
            ["a_1 and b_1 are workers of a with the same synergos_grid_index, 1", "b has no worker with"],
        ),
        (
            {"c_2": {"group_names": ["worker"], "synergos_grid_index": 2, "synergos_participant": "a"}},
            ["c_2 has synergos_grid_index 2, but no TTP has it: add one or correct it"],
        ),
        (
            {"grids": 1, "a_0": None, "b_0": None},
            ["ttp_0 has synergos_grid_index 0, but no worker has it: add one per participant"],
        ),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(changes: dict[str, Any], said: list[str]) -> None:
    found = problems(**changes)
    assert len(found) == len(said), found
    for problem, begin in zip(found, said):
        assert begin in problem
