# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.endpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.synergos.grid.plugins.filter.engine_address import engine_address
from ansible_collections.synergos.grid.plugins.plugin_utils._run import container_of

DOCUMENTATION = r"""
name: endpoint
short_description: Say where one component of a grid reaches another
version_added: 1.0.0
description:
  - On the same engine that is the component's fixed address and its inner port; from another engine it is the address
    of the engine that carries it and the published port, which must be published elsewhere than on loopback.
  - A component that has not published its container in this run, such as one that the run is limited to others than,
    is looked for at its C(synergos_address), on the same engine only.
positional: hostvars, port, engine, network
options:
  _input:
    description: Inventory name of the component to reach.
    type: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
  port:
    description: Port inside the component's container.
    type: int
    required: true
  engine:
    description: Inventory name of the engine on which the caller runs.
    type: str
    required: true
  network:
    description: Name of a further network, on which both are. By default the grid's.
    type: str
    default: ""
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ 'synb_worker_1' | synergos.grid.endpoint(hostvars, 8020, 'synb_engine') }}"
"""

RETURN = r"""
_value:
  description: C(host) and C(port).
  type: dict
  sample: {host: 172.18.0.3, port: 8020}
"""


def endpoint(component: str, hostvars: Mapping[str, Any], port: int, engine: str, network: str = "") -> dict[str, Any]:
    """Return {"host": str, "port": int} under which a process on `engine` reaches `port` of `component`."""
    if component not in hostvars:
        raise AnsibleFilterError(f"{component} is no host of the inventory.")
    host = hostvars[component]  # made anew each time that it is asked for
    container = container_of(host)
    carrier = host.get("synergos_engine")
    if container is None:
        known = host.get("synergos_address")
        if known and carrier == engine and not network:
            return {"host": known, "port": port}
        raise AnsibleFilterError(f"{component} has not published its container in this run: run its role first.")
    if network:
        for attachment in container.get("networks", []) if carrier == engine else ():
            if attachment["name"] == network:
                return {"host": attachment["address"], "port": port}
        raise AnsibleFilterError(f"{component} is not on network {network} of {engine}: place both on one engine.")
    if carrier == engine:
        return {"host": container["address"], "port": port}
    for mapping in container.get("ports", []):
        if mapping["container"] == port:
            address = mapping.get("address", "127.0.0.1")
            if ip_address(address).is_loopback:
                raise AnsibleFilterError(
                    f"{component} publishes port {port} on {address}, where {engine} cannot reach it: set "
                    f"synergos_publish_address to an address of {carrier}, or to 0.0.0.0 for all of them."
                )
            return {"host": engine_address(carrier, hostvars), "port": mapping["host"]}
    raise AnsibleFilterError(f"{component} on {carrier} does not publish port {port}: {engine} cannot reach it.")


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"endpoint": endpoint}
