#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: grid_info
short_description: Tell how the containers of a grid are
version_added: 1.0.0
description:
  - Finds a grid's containers by their label C(org.synergos.grid) and reports each of them, and what is wrong.
  - The check of a container that Docker counts as starting or unhealthy is run once, so that a grid which has just come
    up or recovered shows as it is.
extends_documentation_fragment: synergos.grid.engine
options:
  name:
    description: Name of the grid.
    type: str
    required: true
  expected:
    description: Containers that should be there. One that is missing becomes a component with the status V(missing) and
      a problem.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {description: Same as without., support: full}
  diff_mode: {description: Nothing is changed., support: none}
  idempotent: {description: Never reports a change., support: full}
"""

EXAMPLES = r"""
- name: Read the engine
  synergos.grid.grid_info:
    name: synergos_basic
    expected: [synb_ttp, synb_worker_1, synb_worker_2]
  register: engine

- name: All is well
  ansible.builtin.assert:
    that: not engine.problems
"""

RETURN = r"""
up:
  description: Whether the engine holds any container of the grid.
  returned: success
  type: bool
components:
  description: The containers, those expected first and in their order.
  returned: success
  type: list
  elements: dict
  contains:
    component: {description: Name of the role., type: str}
    name: {description: Name of the container., type: str}
    address: {description: Address in the grid's network., type: str}
    ports: {description: "Published ports, as V(127.0.0.1:5000->5000), separated by commas.", type: str}
    health: {description: "healthy, unhealthy, starting, or none if there is no check.", type: str}
    status: {description: "Docker's state, or missing.", type: str}
    image: {description: Image reference., type: str}
    since: {description: "When it was started, or ended (UTC).", type: str}
    reset: {description: Command that deletes what runs produced., type: list}
problems:
  description: One sentence for each container that is not well.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils._arguments import DOCKER_HOST, connect, finish
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._status import component, problem

PARALLEL = 4  # checks that run at the same time


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "expected": {"type": "list", "elements": "str", "default": []},
            **DOCKER_HOST,
        },
        supports_check_mode=True,
    )
    try:
        result = info(module)
    except GridError as error:
        result = {"failed": True, "msg": str(error)}
    finish(module, result)


def info(module: AnsibleModule) -> dict[str, Any]:
    engine = connect(module)
    there = engine.snapshot(module.params["name"])
    engine.settle(there, ["starting", "unhealthy"], PARALLEL)
    names = list(dict.fromkeys([*module.params["expected"], *sorted(there.inspected)]))
    components = [component(name, there.inspected.get(name)) for name in names]
    problems = [text for record in components if (text := problem(record))]
    return {"changed": False, "up": bool(there.inspected), "components": components, "problems": problems}


if __name__ == "__main__":
    main()
