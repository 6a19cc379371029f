# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.published`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.synergos.grid.plugins.plugin_utils._run import run_id

DOCUMENTATION = r"""
name: published
short_description: Collect the container definitions that components placed on one engine have published
version_added: 1.0.0
description:
  - Takes host names, leaves out those that another engine carries and those that carry no container, and sorts the rest
    into what has published its definition in this playbook run and what has not.
positional: hostvars, engine
options:
  _input:
    description: Inventory host names, usually those of a grid's group.
    type: list
    elements: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
  engine:
    description: Inventory name of the engine.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ groups.synergos_basic | synergos.grid.published(hostvars, inventory_hostname) }}"
"""

RETURN = r"""
_value:
  description:
    - C(containers) holds the definitions, C(images) what they name as their images, C(names) the names of all
      containers that the engine should carry and C(missing) the hosts among them that published nothing.
  type: dict
"""


def published(hosts: list[str], hostvars: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return {"containers": [...], "images": [...], "names": [...], "missing": [...]} for `engine`."""
    containers, missing, names = [], [], []
    for host in hosts:
        variables = hostvars[host]  # made anew each time that it is asked for
        if host == engine or variables.get("synergos_engine") != engine:
            continue
        names.append(variables.get("container_name", host))
        definition = variables.get("ansible_facts", {}).get("synergos_component")
        if definition and definition["run"] == run_id():
            containers.append(definition["container"])
        else:
            missing.append(host)
    images = sorted({container["image"] for container in containers})
    return {"containers": containers, "images": images, "names": names, "missing": missing}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"published": published}
