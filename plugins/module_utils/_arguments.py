# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that talk to Docker share: the option `docker_host`, and the connection it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
