# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `synergos.grid.engine_address`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

DOCUMENTATION = r"""
name: engine_address
short_description: Say under which address other machines reach an engine
version_added: 1.3.0
description:
  - The engine's C(synergos_engine_address), else its C(ansible_host), else its inventory name.
positional: hostvars
options:
  _input:
    description: Inventory name of the engine.
    type: str
    required: true
  hostvars:
    description: Ansible's C(hostvars).
    type: dict
    required: true
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ synergos_engine | synergos.grid.engine_address(hostvars) }}"
"""

RETURN = r"""
_value:
  description: A name or an address.
  type: str
  sample: 192.0.2.7
"""


def engine_address(engine: str, hostvars: Mapping[str, Any]) -> str:
    """Return the name or address under which other machines reach `engine`."""
    variables = hostvars[engine]
    return str(variables.get("synergos_engine_address") or variables.get("ansible_host") or engine)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"engine_address": engine_address}
