#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: command
short_description: Run a command in a container of a grid, or in one of its own
version_added: 1.0.0
description:
  - Runs a command in a running container, or in a container made for it that is removed afterwards, whatever happens.
  - Fails if the command ends with another exit code than 0.
extends_documentation_fragment: synergos.grid.engine
options:
  argv:
    description: The command and its arguments. No shell is involved, and an image's own entry point is not used.
    type: list
    elements: str
    required: true
  container:
    description: Run it in this container, which must be running.
    type: str
  image:
    description: Run it in a container of this image, made for the purpose.
    type: str
  network:
    description: With O(image), the Docker network that the container joins. Docker's default one if left out.
    type: str
  volumes:
    description:
      - With O(image), mounts in the form that O(synergos.grid.grid#module:containers) describes, without C(owner)
        and C(match).
    type: list
    elements: dict
    default: []
  files:
    description: With O(image), files in the form that O(synergos.grid.grid#module:containers) describes.
    type: list
    elements: dict
    default: []
  grid:
    description: With O(image), name of a grid that takes the container away in its teardown should this run be cut off.
    type: str
  environment:
    description: Environment variables.
    type: dict
    default: {}
  user:
    description: User and group, as C(uid:gid). The container's or image's own if left out.
    type: str
  timeout:
    description: Seconds after which the command is given up.
    type: int
    default: 600
attributes:
  check_mode:
    description: The command is not run.
    details: [Nobody can know what it would change; the task is skipped.]
    support: partial
  diff_mode: {description: What a command changes is not known., support: none}
  idempotent: {description: Depends on the command., support: N/A}
"""

EXAMPLES = r"""
- name: Ask what there is to reset
  synergos.grid.command:
    container: synb_ttp
    argv: [synergos-ttp, reset, --dry-run]
  changed_when: false
  register: targets

- name: Ask the TTP from inside its network
  synergos.grid.command:
    image: "{{ ansible_facts.synergos_image_references.ttp }}"
    network: synergos_basic
    argv: [python, -m, synergos.demo, register]
    timeout: 60
"""

RETURN = r"""
rc: {description: Exit code., returned: unless skipped, type: int}
stdout: {description: Output., returned: unless skipped, type: str}
stderr: {description: Error output., returned: unless skipped, type: str}
json: {description: The output as data if it is JSON., returned: unless skipped, type: raw}
"""

import json
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils._arguments import DOCKER_HOST, connect, finish
from ansible_collections.synergos.grid.plugins.module_utils._definition import (
    File,
    Volume,
    parse_mounts,
    secret_texts,
)
from ansible_collections.synergos.grid.plugins.module_utils._desired import COMMAND_LABEL, bind, volume
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

if TYPE_CHECKING:
    from ansible_collections.synergos.grid.plugins.module_utils._engine import Engine, Result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "argv": {"type": "list", "elements": "str", "required": True},
            "container": {"type": "str"},
            "image": {"type": "str"},
            "network": {"type": "str"},
            "volumes": {"type": "list", "elements": "dict", "default": []},
            "files": {"type": "list", "elements": "dict", "default": []},
            "grid": {"type": "str"},
            "environment": {"type": "dict", "default": {}},
            "user": {"type": "str"},
            "timeout": {"type": "int", "default": 600},
            **DOCKER_HOST,
        },
        mutually_exclusive=[("container", name) for name in ("image", "network", "grid")],
        required_one_of=[("container", "image")],
        supports_check_mode=True,
        no_log=True,  # the log of invocations would hold the content of secret files
    )
    if module.check_mode:
        finish(module, {"changed": False, "skipped": True, "msg": "not run in check mode"}, hidden=("files",))
    volumes, files, problems = parse_mounts(module.params["volumes"], module.params["files"])
    module.no_log_values.update(secret_texts(files))
    argv = module.params["argv"]
    try:
        if not argv or module.params["timeout"] < 1 or problems:
            raise GridError("\n".join(problems) or "argv must hold a command, and timeout must be 1 or more")
        engine = connect(module)
        run = in_container(engine, module) if module.params["container"] else one_shot(engine, module, volumes, files)
    except GridError as error:
        finish(module, {"failed": True, "msg": str(error)}, hidden=("files",))
    result = {"changed": True, "rc": run.rc, "stdout": run.stdout, "stderr": run.stderr, "json": _json(run.stdout)}
    if run.rc != 0:
        where = module.params["container"] or module.params["image"]
        result.update(failed=True, msg=f"{' '.join(argv)} in {where} ended with {run.rc}: {_last_words(run)}")
    finish(module, result, hidden=("files",))


def in_container(engine: Engine, module: AnsibleModule) -> Result:
    from ansible_collections.synergos.grid.plugins.module_utils._engine import CommandTimeout

    params = module.params
    name = params["container"]
    inspected = engine.inspect(name)
    status = inspected["State"]["Status"] if inspected else "missing"
    if status != "running":
        raise GridError(f"container {name} is {status}, not running; converge the grid first")
    try:
        return engine.run(name, params["argv"], params["timeout"], params["user"] or "", _environment(module))
    except CommandTimeout as error:
        raise GridError(f"container {name}: {' '.join(params['argv'])}: {error}; raise timeout") from error
    except GridError as error:
        raise GridError(f"container {name}: {' '.join(params['argv'])}: {error}") from error


def one_shot(engine: Engine, module: AnsibleModule, volumes: Sequence[Volume], files: Sequence[File]) -> Result:
    """Run the command in a container of its own, and leave nothing behind."""
    from ansible_collections.synergos.grid.plugins.module_utils._engine import Missing, Result

    params = module.params
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    mounts = [bind(v.source, v.target, v.read_only) if v.type == "bind" else volume(v) for v in volumes]
    container = None
    with tempfile.TemporaryDirectory(prefix="synergos-", dir=module.tmpdir) as folder:
        for index, file in enumerate(files):
            path = Path(folder) / str(index)
            path.write_text(file.content, encoding="utf-8")
            path.chmod(file.mode)
            mounts.append(bind(str(path), file.path, True))
        body = {
            "Image": params["image"],
            "Entrypoint": params["argv"][:1],
            "Cmd": params["argv"][1:],
            "Env": [f"{key}={value}" for key, value in _environment(module).items()],
            "User": params["user"] or "",
            "Labels": {COMMAND_LABEL: params["grid"] or ""},
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {"Mounts": mounts, "NetworkMode": params["network"] or "default"},
        }
        try:
            container = engine.create(None, body)
            engine.start(container)
            rc = engine.wait(container, params["timeout"])
            return Result(rc, *engine.written(container))
        except Missing as error:
            raise GridError(f"image {params['image']}: {error}; build or load it, or correct the name") from error
        except GridError as error:
            raise GridError(f"{' '.join(params['argv'])} in {params['image']}: {error}") from error
        finally:
            if container:
                engine.kill(container)


def _end(*_: Any) -> None:
    """End by an exception, so that `finally` removes the container."""
    raise SystemExit(1)


def _environment(module: AnsibleModule) -> dict[str, str]:
    # A JSON text that Ansible has turned into data is turned back.
    return {
        str(key): value if isinstance(value, str) else json.dumps(value)
        for key, value in module.params["environment"].items()
    }


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _last_words(run: Result) -> str:
    lines = (run.stderr.strip() or run.stdout.strip()).splitlines()
    return lines[-1] if lines else "it wrote nothing"


if __name__ == "__main__":
    main()
