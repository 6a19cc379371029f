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
    description: Inventory name of the engine on which the TTP runs.
    type: str
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
  type: list
  elements: dict
"""


def participants(workers: list[str], hostvars: Mapping[str, Any], engine: str) -> list[dict[str, Any]]:
    """Return one dict per worker, as a TTP on `engine` would register it."""
    found: list[dict[str, Any]] = []
    for worker in workers:
        command, data = (endpoint(worker, hostvars, port, engine) for port in (5000, 8020))
        labels = hostvars[worker]["ansible_facts"]["synergos_component"]["container"]["labels"]
        found.append(
            {
                "participant_id": labels["participant"],
                "role": "guest" if found else "host",
                "host": command["host"],
                "port": data["port"],
                "f_port": command["port"],
                "data": labels["data"],
            }
        )
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"participants": participants}
