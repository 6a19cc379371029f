#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq
short_description: Have users, exchanges, queues, bindings and policies in a RabbitMQ
version_added: 1.3.0
description:
  - Waits until the management plugin answers, reads all definitions, and creates or puts right what differs in the
    virtual host C(/).
  - Users are made with the tag C(synergos). Those that have it and are not named here are removed, and so is C(guest).
    Everything else that is not named here is left alone.
  - An exchange or a queue of another type is an error: only its owner can say what to do with what it holds.
options:
  url:
    description: Address of RabbitMQ's pages, such as V(http://127.0.0.1:15672).
    type: str
    required: true
  user:
    description: Name of an administrator.
    type: str
    default: admin
  password:
    description: Password of O(user).
    type: str
    required: true
  users:
    description: Names of users, each with the one of O(rights) that it has.
    type: dict
    default: {}
  passwords:
    description: Password of each user.
    type: dict
    default: {}
  rights:
    description: Mappings of C(configure), C(write) and C(read) to regular expressions, by names that O(users) uses.
    type: dict
    default: {}
  exchanges:
    description: Durable exchanges.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      type: {description: Type., type: str, choices: [direct, fanout, topic, headers], required: true}
  queues:
    description: Durable queues.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      type: {description: Type., type: str, choices: [classic, quorum], required: true}
  bindings:
    description: What leads from exchanges to queues.
    type: list
    elements: dict
    default: []
    suboptions:
      exchange: {description: Name of the exchange., type: str, required: true}
      queue: {description: Name of the queue., type: str, required: true}
      key: {description: Routing key or pattern., type: str, default: ""}
  policies:
    description: Policies for queues.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      pattern: {description: Regular expression for names of queues., type: str, required: true}
      definition: {description: "What holds for them, in RabbitMQ's own terms.", type: dict, required: true}
  wait_timeout:
    description: Seconds to wait for RabbitMQ.
    type: int
    default: 120
attributes:
  check_mode:
    description: Where RabbitMQ does not answer, everything counts as missing. It does not wait.
    support: full
  diff_mode: {description: Each property that differs., support: full}
  idempotent: {description: Only what differs is touched., support: full}
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Have a queue and a user who may read it
  synergos.grid.rabbitmq:
    url: http://127.0.0.1:15672
    password: "{{ lookup('synergos.grid.secret', 'mq_admin', grid='synergos_cluster') }}"
    queues: [{name: train, type: quorum}]
    users: {reader: readers}
    rights: {readers: {configure: ^$, write: ^$, read: ^train$}}
    passwords:
      reader: "{{ lookup('synergos.grid.secret', 'mq_reader', grid='synergos_cluster') }}"
"""

RETURN = r"""
version:
  description: Version of RabbitMQ, null where none answers.
  returned: success
  type: str
  sample: 4.0.5
actions:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind: {description: "policy, exchange, queue, binding or user.", type: str}
    name: {description: Name., type: str}
    action: {description: "create, update or delete.", type: str}
    reasons: {description: "What differs: property, current, desired.", type: list}
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._rabbitmq import Away, RabbitMQ, Step, plan

NAME: dict[str, Any] = {"type": "str", "required": True}


def listed(**fields: Any) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "default": [], "options": fields}


ARGUMENTS: dict[str, Any] = {
    "url": NAME,
    "user": {"type": "str", "default": "admin"},
    "password": {"type": "str", "required": True, "no_log": True},
    "users": {"type": "dict", "default": {}},
    "passwords": {"type": "dict", "default": {}, "no_log": True},
    "rights": {"type": "dict", "default": {}},
    "exchanges": listed(name=NAME, type={**NAME, "choices": ["direct", "fanout", "topic", "headers"]}),
    "queues": listed(name=NAME, type={**NAME, "choices": ["classic", "quorum"]}),
    "bindings": listed(exchange=NAME, queue=NAME, key={"type": "str", "default": "", "no_log": False}),
    "policies": listed(name=NAME, pattern=NAME, definition={"type": "dict", "required": True}),
    "wait_timeout": {"type": "int", "default": 120},
}


def check(options: dict[str, Any]) -> None:
    for name, kind in options["users"].items():
        if kind not in options["rights"]:
            raise GridError(f"users: {name} is to have the rights {kind!r}, which the option rights does not tell.")
        if not options["passwords"].get(name):
            raise GridError(f"passwords: the user {name} has none.")
    for kind, rights in options["rights"].items():
        if set(rights) != {"configure", "write", "read"}:
            raise GridError(f"rights: {kind} is to tell configure, write and read.")


def converge(options: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    check(options)
    rabbitmq = RabbitMQ(options["url"], options["user"], options["password"])
    try:
        found = rabbitmq.definitions(0 if check_mode else options["wait_timeout"])
    except Away as error:
        if not check_mode:
            raise GridError(f"Waited {options['wait_timeout']} s for RabbitMQ: {error}.") from None
        found = {}
    steps = plan(options, found)
    if not check_mode:
        for step in steps:
            for request in step.requests:
                try:
                    rabbitmq.request(*request)
                except Away as error:
                    raise GridError(
                        f"RabbitMQ went away during {step.action} of {step.kind} {step.name}: {error}."
                    ) from None
    return {
        "changed": bool(steps),
        "version": found.get("rabbitmq_version"),
        "actions": [step.report() for step in steps],
        "diff": {"before": side(steps, "current"), "after": side(steps, "desired")},
    }


def side(steps: list[Step], key: str) -> str:
    return "".join(
        f"{step.kind} {step.name}: {reason['property']} = {json.dumps(reason[key], sort_keys=True)}\n"
        for step in steps
        for reason in step.reasons
    )


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**converge(module.params, module.check_mode))
    except GridError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
