#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: grid
short_description: Converge all containers of a grid on one Docker engine
version_added: 1.0.0
description:
  - Takes the whole desired state of one engine (network, files, folders, volumes, containers), reads the daemon once,
    computes the difference and acts on it, in parallel where the order of dependencies allows.
  - A container counts as started when its health check passes. The module runs the check itself at short intervals and
    does not wait for Docker's own.
  - Existing containers are compared property by property with what Docker reports. A container that was stopped,
    paused, killed, removed, edited, disconnected or made anew by hand is repaired with the least that puts it right;
      others are left alone.
  - Everything is checked before anything is changed, and every problem is reported with the name of the holder.
  - Only objects that carry the label C(org.synergos.grid) with the name of this grid are ever changed or removed.
extends_documentation_fragment: synergos.grid.engine
options:
  name:
    description: Name of the grid. It labels everything that the module makes.
    type: str
    required: true
  state:
    description:
      - V(present) makes the engine carry the grid as described.
      - V(absent) removes every container, network and volume with the grid's label, the folders that the grid made and
        its state folder. It goes on after errors and reports what remains.
    type: str
    choices: [present, absent]
    default: present
  network:
    description: The grid's network. Required if O(state=present).
    type: dict
    suboptions:
      name:
        description: Name of the Docker network.
        type: str
        required: true
      subnet:
        description:
          - IPv4 subnet. Fixed addresses come from its lower half; Docker hands out addresses from its upper half.
        type: str
        required: true
      gateway:
        description: Address of the engine in the subnet. The first address by default.
        type: str
  containers:
    description:
      - One definition for each container.
      - C(name), C(component), C(image) and C(address) are required. C(image) is a key of O(images) or a full reference.
      - C(command) and C(entrypoint) are lists. C(environment), C(labels) and C(tmpfs) map texts to texts.
        C(ulimits) maps names to numbers. C(user), C(hostname) and C(stop_signal) are texts.
      - C(aliases) are further names of the container on the network.
      - C(networks) is a list of further networks that the container is on, which are the grid's too. Each is a mapping
        with C(name), C(subnet), C(address), C(aliases) and C(internal) (V(false) by default; V(true) for a network that
        reaches nothing but its containers, and that only they reach).
      - C(ports) is a list of mappings with C(container), C(host), C(address) (V(127.0.0.1) by default) and C(protocol).
      - C(volumes) is a list of mappings with C(type) (V(volume) or V(bind)), C(source), C(target), C(read_only),
        C(owner) (C(uid:gid); a missing folder is made with this owner, the root of a fresh volume gets it) and, for a
          bind, C(match).
        Every folder below C(source) that fits the pattern C(match) is mounted at the same path below C(target).
      - C(files) is a list of mappings with C(path), C(content), C(mode) (V("0444") by default), C(secret) and
        C(secrets). A file is written to the state folder and mounted read-only. Changed content restarts only the
        containers that use it. The content of a file with C(secret=true) is never shown.
      - C(secrets) of a file maps marks to mappings with C(name) and C(form) (V(plain) by default, V(sha256) for the
        hexadecimal digest, V(rabbitmq) for the salted hash that RabbitMQ keeps). Each C(%(MARK)s) in C(content) gives
        way to the secret of that name in O(secrets_dir), on the control node and just before the module is called. Such
        a file is secret.
      - C(health) has C(test) (a command and its arguments, run in the container without a shell) and, in seconds,
        C(interval), C(timeout), C(start_period) and C(start_interval) (used by engines that know it), and C(retries).
      - C(depends_on) lists containers that are started, and healthy if they have a check, before this one starts.
      - C(resources) has C(memory), C(cpus), C(pids) and C(shm).
      - C(read_only), C(cap_add), C(cap_drop), C(security_opt), C(restart) (V(unless-stopped) by default) and
        C(stop_timeout) mean what they mean to Docker.
      - C(reset) is a command that deletes what runs produced. It is kept as a label.
    type: list
    elements: dict
    default: []
  images:
    description: Names that definitions use, with the image reference of each.
    type: dict
    default: {}
  state_dir:
    description:
      - Folder on the engine. Files that containers mount, and the record of folders that the grid made, live in a
        folder of the grid's name below it.
    type: path
    default: /var/lib/synergos
  complete:
    description:
      - Whether O(containers) is everything that this engine should carry. Only then are containers and networks of
        the grid removed that are not described.
      - Volumes and folders of a container that left the grid are kept until O(state=absent).
    type: bool
    default: false
  secrets_dir:
    description:
      - Folder on the control node with the grid's secrets, one file each. What is missing there is made.
      - By default one of the grid's name below C(synergos) in C($XDG_STATE_HOME) or C(~/.local/state).
      - With O(state=absent) it is removed, unless O(keep_data=true) or the run leaves out other engines of the grid.
    type: str
    default: ""
  secrets:
    description: Texts that are never shown. The secrets of files are among them without being given.
    type: list
    elements: str
    default: []
  wait_timeout:
    description: Seconds that a container gets to become healthy.
    type: int
    default: 120
  parallel:
    description: How many containers are worked on at the same time.
    type: int
    default: 4
  keep_data:
    description: With O(state=absent), keep volumes, the folders that the grid made and the record of them.
    type: bool
    default: false
attributes:
  check_mode:
    description:
      - Nothing is changed. On a machine that is still bare, an image of O(images) that is missing is announced as to be
        built, missing folders become warnings, and a Docker daemon that does not answer is taken for one that holds
          nothing.
    support: full
  diff_mode:
    description: Shows what differs. The content of secret files is not shown.
    support: full
  idempotent:
    description: A second run changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Two containers on a network of their own
  synergos.grid.grid:
    name: synergos_basic
    network: {name: synergos_basic, subnet: 172.18.0.0/24}
    complete: true
    images: {ttp: "synergos/ttp:0f2a6c1d9b3e", worker: "synergos/worker:77aa01c2d3e4"}
    containers:
      - name: synb_worker_1
        component: worker
        image: worker
        address: 172.18.0.3
        health: {test: [healthcheck, "5000", /health]}
        files: [{path: /run/token, content: "%(TOKEN)s", secrets: {TOKEN: {name: worker_token}}}]
      - name: synb_ttp
        component: ttp
        image: ttp
        address: 172.18.0.2
        ports: [{container: 5000, host: 5000}]
        depends_on: [synb_worker_1]

- name: Take it away, but keep volumes and outputs
  synergos.grid.grid:
    name: synergos_basic
    state: absent
    keep_data: true
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be.
  returned: O(state=present)
  type: list
  elements: dict
  contains:
    kind: {description: "container, network, volume, folder, file or image.", type: str}
    name: {description: Name or path., type: str}
    action:
      description: "create, recreate, restart, start, unpause, connect, disconnect, update, remove or build."
      type: str
    reasons:
      description: Every property that differs, with its C(current) and C(desired) value.
      type: list
      elements: dict
components:
  description: The containers described, in the same order.
  returned: O(state=present)
  type: list
  elements: dict
  contains:
    component: {description: Name of the role., type: str}
    name: {description: Name of the container., type: str}
    address: {description: Address in the grid's network., type: str}
    ports: {description: "Published ports, as V(127.0.0.1:5000->5000)., separated by commas.", type: str}
    health: {description: "healthy, unhealthy, starting, or none if there is no check.", type: str}
    status: {description: "Docker's state, or missing.", type: str}
    image: {description: Image reference., type: str}
    since: {description: "When it was started, or ended (UTC).", type: str}
    reset: {description: Command that deletes what runs produced., type: list}
removed:
  description: What was removed, or in check mode would be.
  returned: O(state=absent)
  type: list
  elements: str
kept:
  description: What was left on purpose.
  returned: O(state=absent)
  type: list
  elements: str
remains:
  description: What could not be removed, and why. The module fails if there is any.
  returned: O(state=absent)
  type: list
  elements: str
problems:
  description: Everything that speaks against the converge.
  returned: if the preflight refuses
  type: list
  elements: str
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils import _host
from ansible_collections.synergos.grid.plugins.module_utils._address import further_networks, parse_network
from ansible_collections.synergos.grid.plugins.module_utils._arguments import DOCKER_HOST, connect, finish
from ansible_collections.synergos.grid.plugins.module_utils._definition import NAME, parse, secret_texts
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._plan import (
    Machine,
    Request,
    Snapshot,
    make_plan,
    render,
)
from ansible_collections.synergos.grid.plugins.module_utils._state import State, expand
from ansible_collections.synergos.grid.plugins.module_utils._status import component


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "network": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "subnet": {"type": "str", "required": True},
                    "gateway": {"type": "str"},
                },
            },
            "containers": {"type": "list", "elements": "dict", "default": []},
            "images": {"type": "dict", "default": {}},
            "state_dir": {"type": "path", "default": "/var/lib/synergos"},
            "complete": {"type": "bool", "default": False},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "wait_timeout": {"type": "int", "default": 120},
            "parallel": {"type": "int", "default": 4},
            "keep_data": {"type": "bool", "default": False},
            **DOCKER_HOST,
        },
        required_if=[("state", "present", ["network"])],
        supports_check_mode=True,
        no_log=True,  # the log of invocations would hold the content of secret files
    )
    containers, _problems = parse(module.params["containers"])
    module.no_log_values.update(secret_texts(file for container in containers for file in container.files))
    try:
        check_options(module)
        result = absent(module) if module.params["state"] == "absent" else present(module)
    except (GridError, OSError) as error:
        result = {"failed": True, "msg": str(error)}
    finish(module, result, hidden=("containers", "secrets"))


def check_options(module: AnsibleModule) -> None:
    params = module.params
    if not NAME.fullmatch(params["name"]):
        raise GridError(f"name: expected two or more letters, digits, '_', '.' or '-', got {params['name']!r}")
    if not Path(params["state_dir"]).is_absolute():
        raise GridError(f"state_dir: expected an absolute path, got {params['state_dir']!r}")
    for option in ("wait_timeout", "parallel"):
        if params[option] < 1:
            raise GridError(f"{option}: expected a number from 1 on, got {params[option]}")


def present(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    network, problems = parse_network(params["network"])
    containers, found = parse(params["containers"])
    problems += found
    if problems or network is None:
        return _refused(problems)
    further, problems = further_networks(containers, network)
    if problems:
        return _refused(problems)

    state = State(params["state_dir"], params["name"])
    request = Request(
        params["name"], network, containers, params["images"], params["complete"], module.check_mode, further
    )
    there = Snapshot()
    engine = None
    try:
        engine = connect(module)
    except GridError as error:
        if not module.check_mode:
            raise
        there.unreachable = str(error)
        module.warn(f"{error}. This is what a run would make if Docker held nothing.")
    if engine:
        there = engine.snapshot(
            request.grid, [c.name for c in containers], [request.reference(container) for container in containers]
        )
        engine.settle(there, ["unhealthy"], params["parallel"])
    plan = make_plan(request, there, machine(state))
    if plan.problems:
        return _refused(plan.problems)
    for warning in plan.warnings:
        module.warn(warning)

    steps = plan.steps()
    result: dict[str, Any] = {
        "changed": bool(steps),
        "actions": [step.report() for step in steps],
        "diff": render(steps),
        "components": [component(c.name, there.inspected.get(c.name)) for c in containers],
    }
    if engine is None or module.check_mode or not (steps or plan.containers):
        return result

    from ansible_collections.synergos.grid.plugins.module_utils._converge import Converge

    converge = Converge(engine, state, request, there, params["wait_timeout"], params["parallel"])
    with state.lock() if steps else contextlib.nullcontext():
        converge.run(plan)
    result["components"] = converge.components(plan)
    if converge.errors:
        result.update(failed=True, msg="\n".join(converge.errors))
    return result


def absent(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.synergos.grid.plugins.module_utils._teardown import Teardown

    params = module.params
    state = State(params["state_dir"], params["name"])
    engine = None
    try:
        engine = connect(module)
    except GridError as error:
        if not module.check_mode:
            raise
        module.warn(f"{error}. What Docker holds is not counted.")
    teardown = Teardown(engine, state, params["name"], params["parallel"])
    with state.lock() if state.exists() and not module.check_mode else contextlib.nullcontext():
        teardown.run(params["keep_data"], module.check_mode)
    removed, remains = sorted(teardown.removed), sorted(teardown.remains)
    result: dict[str, Any] = {
        "changed": bool(removed),
        "removed": removed,
        "kept": sorted(teardown.kept),
        "remains": remains,
        "diff": {"before": "".join(f"{line}\n" for line in removed), "after": ""},
    }
    if remains:
        result.update(failed=True, msg="\n".join(["these could not be removed:", *remains]))
    return result


def machine(state: State) -> Machine:
    return Machine(
        files=state.stored(),
        path_of=state.path_of,
        missing=lambda path: not Path(path).exists(),
        expand=expand,
        routes=_host.routes(),
        addresses=_host.addresses(),
        why_unusable=_host.why_unusable,
    )


def _refused(problems: list[str]) -> dict[str, Any]:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "\n".join(f"- {problem}" for problem in problems)
    return {"failed": True, "msg": f"{count}; nothing was changed.\n{lines}", "problems": problems}


if __name__ == "__main__":
    main()
