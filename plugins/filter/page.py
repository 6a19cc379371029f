# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.page`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: page
short_description: Say under which URL a browser reaches a component of a grid
version_added: 1.2.0
description:
  - That is the published port, on the address on which it is published; where that is every address of the engine, on
    the engine's own.
positional: hostvars, port
options:
  _input:
    description: Inventory name of the component, which has published its container in this run.
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
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ 'synp_mlops' | synergos.grid.page(hostvars, 5500) }}"
"""

RETURN = r"""
_value:
  description: URL without a path.
  type: str
  sample: http://127.0.0.1:5500
"""


def page(component: str, hostvars: Mapping[str, Any], port: int) -> str:
    """Return the URL under which a browser reaches `port` of `component`."""
    published = hostvars[component].get("ansible_facts", {}).get("synergos_component")
    if not published:
        raise AnsibleFilterError(f"{component} has not published its container in this run: run its role first.")
    for mapping in published["container"].get("ports", []):
        if mapping["container"] == port:
            address = mapping.get("address", "127.0.0.1")
            if address == "0.0.0.0":
                carrier = hostvars[hostvars[component]["synergos_engine"]]
                address = carrier.get("synergos_engine_address") or carrier.get("ansible_host") or "127.0.0.1"
            return f"http://{address}:{mapping['host']}"
    raise AnsibleFilterError(f"{component} does not publish port {port}: no browser can reach it.")


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"page": page}
