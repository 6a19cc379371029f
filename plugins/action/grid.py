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
        """Return the module's result; secrets go into it neither in clear nor as digests."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folder = arguments.pop("secrets_dir", None)
        definitions = arguments.get("containers") or []
        containers, problems = parse(definitions) if isinstance(definitions, list) else ([], [])
        needed = not problems and any(file.secrets for container in containers for file in container.files)
        try:
            if needed and not folder:
                raise GridError("secrets_dir: is required, because files of containers hold secrets")
            if needed:
                store = Store(folder, self._task.check_mode)
                arguments["containers"], arguments["secrets"] = fill(definitions, store)
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
            if arguments.get("state") == "absent" and folder and not arguments.get("keep_data"):
                self._forget(Store(folder, self._task.check_mode), result)
        except (GridError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    @staticmethod
    def _forget(store: Store, result: dict[str, Any]) -> None:
        if not result.get("failed") and store.remove():
            result["changed"] = True
            result["removed"] = [*result["removed"], f"secrets {store.folder}"]
