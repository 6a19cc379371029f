# SPDX-License-Identifier: GPL-3.0-or-later
"""Action `synergos.grid.component`: check a container definition and publish it for the `grid` role."""

from __future__ import annotations

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
