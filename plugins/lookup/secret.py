# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup `synergos.grid.secret`."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.plugin_utils._secrets import Store

DOCUMENTATION = r"""
name: secret
short_description: Read secrets of a grid, which are made at their first use
version_added: 1.2.0
description:
  - One file per secret, of 48 letters and digits, in a folder of the control node that only its user can read.
  - Give the answer to module options that are never logged, and to nothing else.
  - In check mode nothing is made; a secret that does not exist yet reads as a placeholder.
options:
  _terms:
    description: Names of secrets.
    type: list
    elements: str
    required: true
  grid:
    description: Name of the grid.
    type: str
    required: true
  folder:
    description:
      - The grid's folder of secrets. By default one of the grid's name below C(synergos) in C($XDG_STATE_HOME) or
        C(~/.local/state).
    type: str
    default: ""
"""

EXAMPLES = r"""
- synergos.grid.graylog:
    password: "{{ lookup('synergos.grid.secret', 'graylog_admin', grid='synergos_plus') }}"
"""

RETURN = r"""
_raw:
  description: The secrets.
  type: list
  elements: str
"""


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: Any = None, **options: Any) -> list[str]:
        """Return the secrets named by `terms`."""
        self.set_options(var_options=variables, direct=options)
        try:
            check_mode = bool((variables or {}).get("ansible_check_mode"))
            store = Store(str(self.get_option("grid")), str(self.get_option("folder")), check_mode)
            return [store.get(str(name)) for name in terms]
        except GridError as error:
            raise AnsibleLookupError(str(error)) from error
