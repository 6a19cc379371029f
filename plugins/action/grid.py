# SPDX-License-Identifier: GPL-3.0-or-later
"""Action `synergos.grid.grid`: put secrets of the control node into files, just before the module is called."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.synergos.grid.plugins.module_utils._definition import parse
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.plugin_utils._secrets import Store, fill


class ActionModule(ActionBase):
    """Hands the module all arguments but `secrets_dir`, which names a folder of the control node."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, in which no secret is."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        grid, folder = str(arguments.get("name")), str(arguments.pop("secrets_dir", None) or "")
        definitions = arguments.get("containers") or []
        try:
            store = Store(grid, folder, self._task.check_mode)
            # What is not well formed is left for the module to refuse.
            if isinstance(definitions, list) and not parse(definitions)[1]:
                arguments["containers"], arguments["secrets"] = fill(definitions, store)
            result.update(self._execute_module(module_args=arguments, task_vars=variables))
            gone = arguments.get("state") == "absent" and not arguments.get("keep_data") and not result.get("failed")
            if gone and not self._left_out(grid, variables) and store.remove():
                result["changed"] = True
                result["removed"] = [*result["removed"], f"secrets in {store.folder}"]
        except (GridError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    @staticmethod
    def _left_out(grid: str, variables: dict[str, Any]) -> bool:
        """Say whether the grid has engines that this play leaves alone."""
        engines = set(variables["groups"].get("engines", [])) - set(variables["ansible_play_hosts_all"])
        return any(variables["hostvars"][engine].get("synergos_grid") == grid for engine in engines)
