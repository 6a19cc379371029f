#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: engine
short_description: Have an installed Docker Engine configured and answering
version_added: 1.0.0
description:
  - Asks the daemon of this machine for its version, merges keys into its configuration file, starts it if it does not
    answer and restarts it if the configuration changed.
  - Uses systemd where it runs, else the init script. Without a service manager, or where the init script fails,
    C(dockerd) is started as a background process that logs to C(/var/log/dockerd.log).
  - If the daemon does not start with a changed configuration, the previous one is put back before the module fails.
  - Installs nothing and needs no Docker SDK; where Docker is not installed it says so and changes nothing.
options:
  daemon_config:
    description:
      - Keys to set in the configuration file. Objects are merged, other values replaced.
      - Keys that are not named here are left alone.
    type: dict
    default: {}
  config_file:
    description: Configuration file of the daemon. It is not created while O(daemon_config) is empty.
    type: path
    default: /etc/docker/daemon.json
  minimum_version:
    description: Refuse an older engine.
    type: str
    default: "20.10"
  virtualenv:
    description: Virtual environment that may hold the Docker SDK for later modules.
    type: path
attributes:
  check_mode: {description: Says whether it would configure, start or restart., support: full}
  diff_mode: {description: The configuration file before and after., support: full}
  idempotent: {description: Nothing is done where Docker answers and the keys are set., support: full}
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Have Docker answering, with rotated logs
  synergos.grid.engine:
    daemon_config:
      log-opts: {max-size: 10m}
"""

RETURN = r"""
installed:
  description: Whether this machine has Docker Engine.
  returned: always
  type: bool
version:
  description: Version of the daemon, null where none answers (in check mode or if not installed).
  returned: always
  type: str
python:
  description: A Python with the Docker SDK, this module's own or that of O(virtualenv); null if there is none.
  returned: always
  type: str
images:
  description: Identifier and size in bytes of the images that a daemon had which answered at once, by their names.
  returned: always
  type: dict
  sample: {"synergos/ttp:0f2a6c1d9b3e": {"id": "sha256:77aa…", "size": 1180000000}}
actions:
  description: What was done, or would be in check mode.
  returned: always
  type: list
  elements: str
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils import _dockerd
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError


def converge(options: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    socket = _dockerd.socket_path()
    daemon = _dockerd.Daemon(socket)
    version = _dockerd.version(socket)
    installed = daemon.installed or version is not None
    result: dict[str, Any] = {
        "changed": False,
        "installed": installed,
        "version": version,
        "python": sdk_python(options["virtualenv"]),
        "images": _dockerd.images(socket) if version else {},
        "actions": [],
    }
    if not installed:
        return result
    if version is not None:
        refuse_older(version, options["minimum_version"])

    path = Path(options["config_file"])
    before = _dockerd.read(path)
    after = _dockerd.merge(before, options["daemon_config"])
    configure = before != after
    if configure:
        result["actions"].append(f"set {', '.join(sorted(options['daemon_config']))} in {path}")
        result["diff"] = {
            "before_header": str(path),
            "after_header": str(path),
            "before": _dockerd.text(before),
            "after": _dockerd.text(after),
        }
    if version is None:
        result["actions"].append("start")
    elif configure:
        result["actions"].append("restart")
    result["changed"] = bool(result["actions"])
    if not result["changed"] or check_mode:
        return result

    previous = path.read_text() if path.exists() else None
    if configure:
        _dockerd.write(path, _dockerd.text(after))
    try:
        way = daemon.start() if version is None else daemon.restart()
    except GridError as error:
        if not configure:
            raise
        raise GridError(f"{error}\n{undo(daemon, path, previous, version is not None)}") from error
    result["actions"][-1] += f" ({way})"
    result["version"] = _dockerd.version(socket)
    refuse_older(result["version"] or "0", options["minimum_version"])
    return result


def undo(daemon: _dockerd.Daemon, path: Path, previous: str | None, ran: bool) -> str:
    """Put the previous configuration back; the daemon that ran before runs again."""
    _dockerd.write(path, previous)
    if not ran:
        return f"{path} is as it was before."
    try:
        daemon.start()
    except GridError:
        return f"{path} is as it was before, but Docker does not start with that either."
    return f"{path} is as it was before, and Docker runs with it."


def refuse_older(version: str, minimum: str) -> None:
    if _dockerd.older(version, minimum):
        raise GridError(
            f"Docker Engine {version} is older than {minimum}: upgrade it, or remove it and run the role engine"
        )


def sdk_python(virtualenv: str | None) -> str | None:
    if importlib.util.find_spec("docker") is not None:
        return sys.executable
    if virtualenv and any(Path(virtualenv).glob("lib/python3*/site-packages/docker/__init__.py")):
        return str(Path(virtualenv) / "bin/python")
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "daemon_config": {"type": "dict", "default": {}},
            "config_file": {"type": "path", "default": "/etc/docker/daemon.json"},
            "minimum_version": {"type": "str", "default": "20.10"},
            "virtualenv": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**converge(module.params, module.check_mode))
    except (GridError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
