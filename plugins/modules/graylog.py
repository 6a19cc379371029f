#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: graylog
short_description: Have inputs, streams, dashboards and rotation in a Graylog
version_added: 1.2.0
description:
  - Waits until Graylog answers and has an index to write to, reads what it holds, and creates or puts right what
    differs; then waits until the inputs run.
  - An input or a stream is taken as one of the options' if it has the title; failing that, an input of the type at the
    port, and a stream with the very rule. A dashboard is known by the identifier that this module gave it. Everything
    else is left alone.
  - A dashboard is put right as a whole. Save a copy to change it by hand.
  - Speaks to Graylog 3.3 and later. It is tested against 3.3; what later versions want differently follows the vendor's
    sources.
options:
  url:
    description: Address of Graylog's pages, such as V(http://127.0.0.1:9000).
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
  state:
    description:
      - With V(present), everything is as the options say.
      - With V(purged), the messages in the index set are deleted and nothing else is looked at. Messages that arrive
        meanwhile stay.
    type: str
    choices: [present, purged]
    default: present
  index_set:
    description: The index set that holds the messages. Changed shards and replicas count from the next index on.
    type: dict
    required: true
    suboptions:
      prefix:
        description: Prefix by which the index set is found.
        type: str
        default: graylog
      shards:
        description: Shards of an index.
        type: int
        default: 1
      replicas:
        description: Copies of each shard.
        type: int
        default: 0
      rotation:
        description: What ends an index.
        type: str
        choices: [count, size, time]
        default: size
      max_documents:
        description: Messages in an index, for O(index_set.rotation=count).
        type: int
      max_bytes:
        description: Size of an index in bytes, for O(index_set.rotation=size).
        type: int
        default: 1073741824
      period:
        description: ISO 8601 duration that an index covers, for O(index_set.rotation=time).
        type: str
      max_indices:
        description: Indices to keep; the oldest is deleted.
        type: int
        default: 5
  inputs:
    description: Global GELF inputs over TCP. Messages end with a null byte.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: Title.
        type: str
        required: true
      port:
        description: TCP port.
        type: int
        required: true
      bind_address:
        description: Address to listen on.
        type: str
        default: 0.0.0.0
      max_message_size:
        description: Largest message in bytes.
        type: int
        default: 2097152
  streams:
    description: Streams of one rule, that a field contains a text. Messages stay in the default stream as well.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: Title.
        type: str
        required: true
      description:
        description: Description; by default it tells the rule.
        type: str
      field:
        description: Field to look at.
        type: str
        default: logger
      contains:
        description: Text to look for.
        type: str
        required: true
  dashboards:
    description: Dashboards.
    type: list
    elements: dict
    default: []
    suboptions:
      title:
        description: Title.
        type: str
        required: true
      summary:
        description: One sentence.
        type: str
        default: ""
      description:
        description: Longer text.
        type: str
        default: ""
      last:
        description: Seconds up to now that the widgets show.
        type: int
        default: 300
      tabs:
        description: Tabs, from left to right.
        type: list
        elements: dict
        required: true
        suboptions:
          title:
            description: Title.
            type: str
            required: true
          stream:
            description: Title of the one in O(streams) that the tab's widgets show.
            type: str
            required: true
          widgets:
            description: Widgets.
            type: list
            elements: dict
            required: true
            suboptions:
              title:
                description: Title.
                type: str
                required: true
              type:
                description: A table of messages, or a chart of O(dashboards.tabs.widgets.series).
                type: str
                choices: [messages, pie, bar, line]
                required: true
              col:
                description: Left column, 1 to 12.
                type: int
                default: 1
              row:
                description: Upper row, from 1.
                type: int
                required: true
              width:
                description: Columns.
                type: int
                default: 12
              height:
                description: Rows.
                type: int
                default: 4
              series:
                description:
                  - What a chart shows, V(count(\)) or one of avg, max, min, sum and stddev of a field, such as
                    V(avg(cpu_percent\)).
                type: list
                elements: str
                default: [count()]
              by:
                description: Field whose values a chart tells apart.
                type: str
                default: logger
              limit:
                description: Values of O(dashboards.tabs.widgets.by) that a chart shows.
                type: int
                default: 15
              fields:
                description: Columns of a table.
                type: list
                elements: str
                default: [timestamp, source, gl2_remote_ip, gl2_remote_port]
  wait_timeout:
    description: Seconds to wait for Graylog, and again for its inputs.
    type: int
    default: 120
attributes:
  check_mode:
    description: Where Graylog does not answer, everything counts as missing. It does not wait.
    support: full
  diff_mode: {description: Each property that differs., support: full}
  idempotent: {description: Only what differs is touched., support: full}
author: The synergos.grid maintainers
"""

EXAMPLES = r"""
- name: Configure Graylog
  synergos.grid.graylog:
    url: http://127.0.0.1:9000
    password: "{{ lookup('ansible.builtin.file', 'graylog_admin') }}"
    index_set: {rotation: time, period: P1D, max_indices: 7}
    inputs:
      - {title: Worker Logs, port: 9400}
    streams:
      - {title: Worker Stream, contains: WKR_}
    dashboards:
      - title: Workers
        tabs:
          - title: Load
            stream: Worker Stream
            widgets:
              - {title: Messages, type: bar, row: 1}
              - {title: CPU, type: line, row: 5, series: [avg(cpu_percent)]}

- name: Delete all messages
  synergos.grid.graylog:
    url: http://127.0.0.1:9000
    password: "{{ lookup('ansible.builtin.file', 'graylog_admin') }}"
    index_set: {}
    state: purged
"""

RETURN = r"""
version:
  description: Version of Graylog, null where none answers.
  returned: success
  type: str
  sample: "3.3"
actions:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    kind: {description: "index_set, input, stream, dashboard or messages.", type: str}
    name: {description: "Title, or prefix of the index set.", type: str}
    action: {description: "create, update, start or delete.", type: str}
    reasons: {description: "What differs: property, current, desired.", type: list}
dashboards:
  description: Path of each dashboard's page under O(url).
  returned: success
  type: dict
  sample: {Workers: /dashboards/2b1f0a9c8d7e6f5a4b3c2d1e}
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_content as content
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_plan as planning
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._graylog_api import Away, Graylog, patiently

WIDGET: dict[str, Any] = {
    "title": {"type": "str", "required": True},
    "type": {"type": "str", "choices": ["messages", "pie", "bar", "line"], "required": True},
    "col": {"type": "int", "default": 1},
    "row": {"type": "int", "required": True},
    "width": {"type": "int", "default": 12},
    "height": {"type": "int", "default": 4},
    "series": {"type": "list", "elements": "str", "default": ["count()"]},
    "by": {"type": "str", "default": "logger"},
    "limit": {"type": "int", "default": 15},
    "fields": {
        "type": "list",
        "elements": "str",
        "default": ["timestamp", "source", "gl2_remote_ip", "gl2_remote_port"],
    },
}
TAB: dict[str, Any] = {
    "title": {"type": "str", "required": True},
    "stream": {"type": "str", "required": True},
    "widgets": {"type": "list", "elements": "dict", "required": True, "options": WIDGET},
}
DASHBOARD: dict[str, Any] = {
    "title": {"type": "str", "required": True},
    "summary": {"type": "str", "default": ""},
    "description": {"type": "str", "default": ""},
    "last": {"type": "int", "default": 300},
    "tabs": {"type": "list", "elements": "dict", "required": True, "options": TAB},
}
STREAM: dict[str, Any] = {
    "title": {"type": "str", "required": True},
    "description": {"type": "str"},
    "field": {"type": "str", "default": "logger"},
    "contains": {"type": "str", "required": True},
}
INPUT: dict[str, Any] = {
    "title": {"type": "str", "required": True},
    "port": {"type": "int", "required": True},
    "bind_address": {"type": "str", "default": "0.0.0.0"},
    "max_message_size": {"type": "int", "default": 2097152},
}
INDEX_SET: dict[str, Any] = {
    "prefix": {"type": "str", "default": "graylog"},
    "shards": {"type": "int", "default": 1},
    "replicas": {"type": "int", "default": 0},
    "rotation": {"type": "str", "choices": ["count", "size", "time"], "default": "size"},
    "max_documents": {"type": "int"},
    "max_bytes": {"type": "int", "default": 1073741824},
    "period": {"type": "str"},
    "max_indices": {"type": "int", "default": 5},
}
ARGUMENTS: dict[str, Any] = {
    "url": {"type": "str", "required": True},
    "user": {"type": "str", "default": "admin"},
    "password": {"type": "str", "required": True, "no_log": True},
    "state": {"type": "str", "choices": ["present", "purged"], "default": "present"},
    "index_set": {
        "type": "dict",
        "required": True,
        "options": INDEX_SET,
        "required_if": [("rotation", "count", ["max_documents"]), ("rotation", "time", ["period"])],
    },
    "inputs": {"type": "list", "elements": "dict", "default": [], "options": INPUT},
    "streams": {"type": "list", "elements": "dict", "default": [], "options": STREAM},
    "dashboards": {"type": "list", "elements": "dict", "default": [], "options": DASHBOARD},
    "wait_timeout": {"type": "int", "default": 120},
}


def converge(options: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    content.check(options)
    graylog = Graylog(options["url"], options["user"], options["password"])
    prefix = options["index_set"]["prefix"]
    try:
        index_sets = graylog.ready(prefix)
    except Away:
        if check_mode:
            steps = [] if options["state"] == "purged" else planning.plan(options, planning.Found(), nowhere=True)
            return result(options, graylog, steps)
        index_sets = patiently(lambda: graylog.ready(prefix), options["wait_timeout"])
    if options["state"] == "purged":
        return purge(options, graylog, index_sets, check_mode)

    found = graylog.read(options, index_sets)
    steps = planning.plan(options, found)
    if check_mode:
        return result(options, graylog, steps)
    ours = planning.match_streams(options["streams"], found.streams)
    streams = {title: str(stream["id"]) for title, stream in ours.items()}
    for step in steps:
        graylog.apply(step, planning.find_index_set(prefix, index_sets)["id"], streams)
    if steps:
        patiently(lambda: graylog.settle(options["inputs"]), options["wait_timeout"])
    return result(options, graylog, steps)


def purge(
    options: dict[str, Any], graylog: Graylog, index_sets: list[dict[str, Any]], check_mode: bool
) -> dict[str, Any]:
    prefix = options["index_set"]["prefix"]
    index_set = planning.find_index_set(prefix, index_sets)
    indices = graylog.stored(index_set["id"])
    messages = sum(indices.values())
    steps = []
    if messages:
        reason = {"property": "messages", "current": messages, "desired": 0}
        steps.append(planning.Step("messages", prefix, "delete", [reason], options["index_set"], index_set))
        if not check_mode:
            graylog.purge(index_set["id"], indices)
    return result(options, graylog, steps)


def result(options: dict[str, Any], graylog: Graylog, steps: list[planning.Step]) -> dict[str, Any]:
    def side(key: str) -> str:
        return "".join(
            f"{step.kind} {step.name}: {reason['property']} = {json.dumps(reason[key], sort_keys=True)}\n"
            for step in steps
            for reason in step.reasons
        )

    return {
        "changed": bool(steps),
        "version": ".".join(map(str, graylog.version)) if graylog.version > (0, 0) else None,
        "actions": [step.report() for step in steps],
        "diff": {"before": side("current"), "after": side("desired")},
        "dashboards": {
            option["title"]: f"/dashboards/{content.dashboard_id(option['title'])}" for option in options["dashboards"]
        },
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        module.exit_json(**converge(module.params, module.check_mode))
    except (GridError, Away) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
