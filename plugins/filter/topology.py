# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.topology`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

DOCUMENTATION = r"""
name: topology
short_description: Say what an inventory lacks for the grids of a cluster
version_added: 1.3.0
description:
  - A grid of a cluster is one host of group C(ttp) and, for each participant, one host of group C(worker) that all have
    the same C(synergos_grid_index). Grids are counted from 0.
positional: hostvars
options:
  _input:
    description: Inventory names of a tier's hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.assert:
    that: groups.synergos_cluster | synergos.grid.topology(hostvars) | length == 0
"""

RETURN = r"""
_value:
  description: A sentence for everything that is missing or contradicts itself.
  type: list
  elements: str
  sample: ["sync_ttp_1 and sync_ttp_2 have the same synergos_grid_index, 0: give each TTP one of its own"]
"""


def topology(hosts: list[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Return a sentence for everything that the grids of `hosts` lack."""
    tier = {host: hostvars[host] for host in sorted(hosts)}
    members = {group: [host for host in tier if group in tier[host]["group_names"]] for group in ("ttp", "worker")}
    if not members["ttp"]:
        return ["nothing takes jobs from the broker: add hosts to group ttp"]
    indices, problems = _indices(
        {host: tier[host].get("synergos_grid_index") for host in [*members["ttp"], *members["worker"]]}
    )
    if problems:
        return problems
    ttps: dict[int, list[str]] = {}
    for host in members["ttp"]:
        ttps.setdefault(indices[host], []).append(host)
    workers: dict[str, dict[int, list[str]]] = {}
    for host in members["worker"]:
        participant = str(tier[host].get("synergos_participant", host))
        workers.setdefault(participant, {}).setdefault(indices[host], []).append(host)
    return [*_of_ttps(ttps), *_of_workers(workers, ttps)]


def _indices(given: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
    """Return the index of each host that has a usable one, and a sentence for each that has none."""
    found, problems = {}, []
    for host, value in given.items():
        if str(value).isdecimal() and str(value).isascii():
            found[host] = int(str(value))
        else:
            there = "has no synergos_grid_index" if value is None else f"has the synergos_grid_index {str(value)!r}"
            problems.append(f"{host} {there}: set it to the number of its grid, 0 for the first")
    return found, problems


def _of_ttps(ttps: Mapping[int, list[str]]) -> list[str]:
    """Return what is wrong with the TTPs of each index."""
    problems = [
        f"{' and '.join(hosts)} have the same synergos_grid_index, {index}: give each TTP one of its own"
        for index, hosts in sorted(ttps.items())
        if len(hosts) > 1
    ]
    last = max(ttps)
    return problems + [
        f"no TTP has synergos_grid_index {index}, but {ttps[last][0]} has {last}: count grids from 0, without gaps"
        for index in range(last)
        if index not in ttps
    ]


def _of_workers(workers: Mapping[str, Mapping[int, list[str]]], ttps: Mapping[int, list[str]]) -> list[str]:
    """Return what is wrong with each participant's workers by index."""
    problems = []
    for participant, nodes in workers.items():
        for index, hosts in nodes.items():
            if len(hosts) > 1:
                problems.append(
                    f"{' and '.join(hosts)} are workers of {participant} with the same synergos_grid_index, {index}: "
                    "a participant has one in each grid"
                )
            if index not in ttps:
                problems.append(f"{hosts[0]} has synergos_grid_index {index}, but no TTP has it: add one or correct it")
    for index, hosts in sorted(ttps.items()):
        lacking = [participant for participant, nodes in workers.items() if index not in nodes]
        if len(lacking) == len(workers):
            problems.append(
                f"{hosts[0]} has synergos_grid_index {index}, but no worker has it: add one per participant"
            )
        else:
            problems += [
                f"{participant} has no worker with synergos_grid_index {index}, as others have: every participant "
                "needs one in each grid"
                for participant in lacking
            ]
    return problems


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"topology": topology}
