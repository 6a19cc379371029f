# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.collaboration`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.synergos.grid.plugins.filter.endpoint import endpoint
from ansible_collections.synergos.grid.plugins.plugin_utils._run import container_of

DOCUMENTATION = r"""
name: collaboration
short_description: Describe the components of a grid that a collaboration is served by
version_added: 1.2.0
description:
  - Takes inventory names, usually those of a grid's group, and picks the log server, the experiment tracker and the
    broker among those that have published their containers in this run.
positional: hostvars, engine
options:
  _input:
    description: Inventory names.
    type: list
    elements: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
  engine:
    description: Inventory name of the engine on which the TTP or the Director runs.
    type: str
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ groups.synergos_plus | synergos.grid.collaboration(hostvars, synergos_engine) }}"
"""

RETURN = r"""
_value:
  description:
    - C(logs), C(mlops) and C(mq), as a collaboration's record holds them, each with C(host), C(ports) and C(secure). A
      component that the grid does not have is left out.
  type: dict
"""

# Component -> its name in the record, and its ports by their names there.
COMPONENTS = {
    "logger": ("logs", {"main": 9000, "ui": 9000, "sysmetrics": 9100, "director": 9200, "ttp": 9300, "worker": 9400}),
    "mlops": ("mlops", {"main": 5500, "ui": 5500}),
    "mq": ("mq", {"main": 5672, "ui": 15672}),
}


def collaboration(hosts: list[str], hostvars: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return {"logs": {...}, "mlops": {...}, "mq": {...}} as far as `hosts` have them, reached from `engine`."""
    found: dict[str, Any] = {}
    for host in sorted(hosts):
        container = container_of(hostvars[host])
        if container is None or container["component"] not in COMPONENTS:
            continue
        name, ports = COMPONENTS[container["component"]]
        reached = {key: endpoint(host, hostvars, port, engine) for key, port in ports.items()}
        record = {
            "host": reached["main"]["host"],
            "ports": {key: each["port"] for key, each in reached.items()},
            "secure": False,
        }
        found.setdefault(name, record)
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"collaboration": collaboration}
