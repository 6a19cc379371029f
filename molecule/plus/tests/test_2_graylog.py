"""Graylog as the tier configures it: the dashboard shows the cycle, and an edit by hand is named and put right."""

from __future__ import annotations

import json
import socket
from typing import Any

from conftest import Graylog, eventually, playbook

DASHBOARD = "Synergos Dashboard"
LAST_DAY = {"global_override": {"timerange": {"type": "relative", "range": 86400}}}


def send(graylog: Graylog, verb: str, path: str, body: Any) -> Any:
    answer = graylog._session.request(verb, f"{graylog.address}/{path}", json=body, timeout=60)
    assert answer.ok, answer.text
    return answer.json()


def is_figure(series: str, value: float | None) -> bool:
    """Whether there is something behind a value: where no message has it, count and sum are 0 and all else is null."""
    return value is not None and (value > 0 or not series.startswith(("count", "sum")))


def empty_widgets(graylog: Graylog) -> list[str]:
    """Run the dashboard's search and return the widgets that would show nothing, or lack one of their curves."""
    (view,) = [each for each in graylog.get("dashboards")["views"] if each["title"] == DASHBOARD]
    done = send(graylog, "POST", f"views/search/{view['search_id']}/execute", LAST_DAY)["results"]
    empty = []
    for query, tab in view["state"].items():
        for widget in tab["widgets"]:
            (search,) = tab["widget_mapping"][widget["id"]]
            found = done[query]["search_types"][search]
            values = [value for row in found.get("rows", []) for value in row["values"]]
            shown = {value["key"][-1] for value in values if is_figure(value["key"][-1], value["value"])}
            curves = {series["function"] for series in widget["config"].get("series", [])}
            if not (curves <= shown if curves else found["messages"]):
                empty.append(f"{tab['titles']['tab']['title']} / {tab['titles']['widget'][widget['id']]}")
    return sorted(empty)


def test_every_widget_of_the_dashboard_shows_the_cycle(said: str, graylog: Graylog) -> None:
    # The tier has no Director: one line stands for it.
    line = {"version": "1.1", "host": "director", "short_message": "hello", "_logger": "DIR_test"}
    with socket.create_connection(("127.0.0.1", 9200), timeout=10) as connection:
        connection.sendall(json.dumps(line).encode() + b"\0")
    assert eventually(lambda: not empty_widgets(graylog)), empty_widgets(graylog)


def test_an_input_edited_by_hand_is_named_and_put_right(graylog: Graylog) -> None:
    (item,) = [each for each in graylog.get("system/inputs")["inputs"] if each["title"] == "TTP Logs"]
    body = {key: item[key] for key in ("title", "type", "global")}
    edited = {**body, "configuration": {**item["attributes"], "max_message_size": 4096}}
    send(graylog, "PUT", f"system/inputs/{item['id']}", edited)
    named = playbook("synplus", "--check", "--diff")
    assert named.rc == 0 and named.changed == 1, named.output
    assert "-input TTP Logs: max_message_size = 4096" in named.output
    assert "+input TTP Logs: max_message_size = 2097152" in named.output
    repaired = playbook("synplus")
    assert repaired.rc == 0, repaired.output
    (item,) = [each for each in graylog.get("system/inputs")["inputs"] if each["title"] == "TTP Logs"]
    assert item["attributes"]["max_message_size"] == 2097152
    again = playbook("synplus")
    assert again.rc == 0 and again.changed == 0, again.output
