# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.pages`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible_collections.synergos.grid.plugins.plugin_utils._run import container_of

DOCUMENTATION = r"""
name: pages
short_description: Say under which URLs a browser reaches the components of a grid
version_added: 1.2.0
description:
  - That is the published port, on the address on which it is published; where that is every address of the engine, on
    the engine's own.
positional: hostvars
options:
  _input:
    description: Inventory names, usually those of a grid's group.
    type: list
    elements: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ groups.synergos_plus | synergos.grid.pages(hostvars) }}"
"""

RETURN = r"""
_value:
  description:
    - C(ttp), the REST API of the Director in a cluster, C(logs), a search that lacks only its query, C(mlops) and
      C(mq), each as far as the grid has it and its container is published in this run.
  type: dict
  sample: {ttp: "http://127.0.0.1:5000", mlops: "http://127.0.0.1:5500"}
"""

# Component -> name, port inside, path. Of two with one name the first counts.
PAGES = {
    "director": ("ttp", 5000, ""),
    "ttp": ("ttp", 5000, ""),
    "logger": ("logs", 9000, "/search?rangetype=relative&relative=86400&q="),
    "mlops": ("mlops", 5500, ""),
    "mq": ("mq", 15672, ""),
}


def pages(hosts: list[str], hostvars: Mapping[str, Any]) -> dict[str, str]:
    """Return the URL of every page that a browser reaches."""
    found: dict[str, str] = {}
    containers = {host: container for host in sorted(hosts) if (container := container_of(hostvars[host]))}
    for component, (name, port, path) in PAGES.items():
        for host, container in containers.items():
            for mapping in container.get("ports", []) if container["component"] == component else ():
                if mapping["container"] == port:
                    address = mapping.get("address", "127.0.0.1")
                    if address == "0.0.0.0":
                        carrier = hostvars[hostvars[host]["synergos_engine"]]
                        address = carrier.get("synergos_engine_address") or carrier.get("ansible_host") or "127.0.0.1"
                    found.setdefault(name, f"http://{address}:{mapping['host']}{path}")
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"pages": pages}
