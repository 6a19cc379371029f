# SPDX-License-Identifier: GPL-3.0-or-later
"""Action `synergos.grid.component`: check a container definition and publish it for the `grid` role."""

from __future__ import annotations

import difflib
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.synergos.grid.plugins.module_utils._definition import parse
from ansible_collections.synergos.grid.plugins.plugin_utils._run import run_id


class ActionModule(ActionBase):
    """Runs on the control node only: a component's host is never connected to."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the definition as the fact `synergos_component`, or fail with one line per wrong field."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        definition = dict(self._task.args)
        _containers, problems = parse([definition])
        problems += self._unknown_options(definition.get("name"), variables)
        engine = variables.get("synergos_engine")
        engines = variables["groups"].get("engines", [])
        if engine not in engines:
            named = f"{engine} is none" if engine else "synergos_engine is not set"
            problems.append(
                f"container {definition.get('name')}: no engine carries it: {named}; the inventory's engines are "
                f"{', '.join(sorted(engines)) or 'missing (group engines is empty)'}"
            )
        if problems:
            raise AnsibleActionFail("\n".join(problems))
        result["ansible_facts"] = {"synergos_component": {"run": run_id(), "container": definition}}
        return result

    def _unknown_options(self, name: Any, variables: dict[str, Any]) -> list[str]:
        """Return a sentence per variable that looks like an option of the role but is none: it would be ignored."""
        role = self._task._role
        if role is None:
            return []
        prefix = f"{role.get_name(include_role_fqcn=False)}_"
        options = [*role.get_default_vars(), *role.get_vars(include_params=False)]
        problems = []
        for variable in sorted(variables):
            private = variable.startswith(f"{prefix}_")  # a task's own
            if variable.startswith(prefix) and not private and variable not in options:
                near = difflib.get_close_matches(variable, options, n=1)
                hint = f"did you mean {near[0]}?" if near else f"ansible-doc -t role {role.get_name()} lists them"
                problems.append(f"container {name}: {variable} is no option of the role: {hint}")
        return problems
