# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.participants`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.synergos.grid.plugins.filter.endpoint import endpoint

DOCUMENTATION = r"""
name: participants
short_description: Describe the participants of a grid for their registration with a TTP
version_added: 1.0.0
description:
  - Takes inventory names of workers that have published their containers in this run. The first participant gets the
    role C(host), the others C(guest).
  - In a cluster a participant has a worker in each grid, whose TTPs may run on several engines.
positional: hostvars, engine
options:
  _input:
    description: Inventory names of workers.
    type: list
    elements: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
  engine:
    description: Inventory name of the engine on which the TTP runs, or those of several TTPs.
    type: raw
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ groups.synergos_basic_workers | synergos.grid.participants(hostvars, synergos_engine) }}"
"""

RETURN = r"""
_value:
  description:
    - Per participant C(participant_id), C(role), C(host), C(port) (data port), C(f_port) (REST port) and C(data) (its
      folder in a data set).
    - A participant with several workers also has C(nodes), a list with C(host), C(port) and C(f_port) of each in the
      order of their grids; those of the participant are the first one's.
  type: list
  elements: dict
"""


def participants(workers: list[str], hostvars: Mapping[str, Any], engine: str | list[str]) -> list[dict[str, Any]]:
    """Return one dict per participant, as TTPs on `engine` would have it registered."""
    callers = [engine] if isinstance(engine, str) else engine
    nodes: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    folders: dict[str, str] = {}
    for worker in workers:
        variables = hostvars[worker]
        carrier = variables["synergos_engine"]
        # What is reached from elsewhere is reached from the same engine, too.
        caller = next((each for each in callers if each != carrier), carrier)
        command, data = (endpoint(worker, hostvars, port, caller) for port in (5000, 8020))
        labels = variables["ansible_facts"]["synergos_component"]["container"]["labels"]
        node = {"host": command["host"], "port": data["port"], "f_port": command["port"]}
        nodes.setdefault(labels["participant"], []).append((int(labels.get("grid_index", 0)), node))
        folders.setdefault(labels["participant"], labels["data"])
    found: list[dict[str, Any]] = []
    for name, indexed in nodes.items():
        own = [node for _index, node in sorted(indexed, key=lambda each: each[0])]
        participant = {"participant_id": name, "role": "guest" if found else "host", "data": folders[name], **own[0]}
        found.append({**participant, "nodes": own} if len(own) > 1 else participant)
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"participants": participants}
