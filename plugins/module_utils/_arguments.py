# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that talk to Docker share: the option `docker_host`, the connection it names, the end."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

if TYPE_CHECKING:
    from ansible_collections.synergos.grid.plugins.module_utils._engine import Engine

DOCKER_HOST: dict[str, Any] = {"docker_host": {"type": "str"}}


def connect(module: AnsibleModule) -> Engine:
    """The engine that the module's options name; GridError if it does not answer or the Docker SDK is missing."""
    try:
        from ansible_collections.synergos.grid.plugins.module_utils._engine import Engine
    except ImportError as error:
        if error.name not in ("docker", "requests"):
            raise
        raise GridError(missing_required_lib("docker (>=7.1,<8)")) from error
    return Engine(module.params["docker_host"])


def finish(module: AnsibleModule, result: dict[str, Any], hidden: Collection[str] = ()) -> NoReturn:
    """End the module with `result`, as a failure if it says `failed`.

    Ansible adds the arguments to each result; the options `hidden`, which can hold secrets, are left out of them.
    """
    shown = {key: value for key, value in module.params.items() if key not in hidden}
    result["invocation"] = {"module_args": shown}
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)
    raise SystemExit
