# SPDX-License-Identifier: GPL-3.0-or-later
# The documentation of the action plugin of the same name: the code runs on the control node.

DOCUMENTATION = r"""
module: component
short_description: Publish the container definition of one component
version_added: 1.0.0
description:
  - Checks a definition field by field and keeps it as the fact C(synergos_component) of the host, for this run only.
  - Runs on the control node and connects to nothing. M(synergos.grid.grid) acts on what was published.
  - Fails if the host's C(synergos_engine) is no host of the group C(engines).
options:
  name: {description: Name of the container., type: str, required: true}
  component: {description: Name of the role that describes it., type: str, required: true}
  image: {description: Name in the image catalogue or a full image reference., type: str, required: true}
  address: {description: Fixed IPv4 address inside the grid's subnet., type: str, required: true}
attributes:
  check_mode: {description: Same as without., support: full}
  diff_mode: {description: Nothing is changed., support: none}
  idempotent: {description: Never reports a change., support: full}
notes:
  - All further fields are those of O(synergos.grid.grid#module:containers).
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Publish the container definition
  synergos.grid.component:
    name: synb_ttp
    component: ttp
    image: ttp
    address: 172.18.0.2
"""

RETURN = r"""
ansible_facts:
  description: The definition, under C(synergos_component).
  returned: always
  type: dict
"""
