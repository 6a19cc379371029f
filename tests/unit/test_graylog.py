"""The plan of the module `graylog`, against what a Graylog 3.3 as the role wants it answered once (graylog.json)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_api as api
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_content as content
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_plan as planning
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.modules import graylog as module

ROLE = Path(__file__).parents[2] / "roles/logger"
ANSWERED = json.loads((Path(__file__).parent / "graylog.json").read_text())


def yaml_of(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROLE / name).read_text())
    return loaded


def options(**changes: Any) -> dict[str, Any]:
    """The options that the role gives, with the module's defaults filled in."""
    given = {
        "url": "http://127.0.0.1:9000",
        "password": "x",
        "index_set": yaml_of("defaults/main.yml")["logger_index_set"],
        "inputs": yaml_of("vars/main.yml")["logger__inputs"],
        "streams": yaml_of("vars/main.yml")["logger__streams"],
        "dashboards": yaml_of("files/dashboards.yml")["dashboards"],
        **changes,
    }
    result = ArgumentSpecValidator(module.ARGUMENTS).validate(given)
    assert not result.error_messages
    filled: dict[str, Any] = result.validated_parameters
    return filled


def found() -> planning.Found:
    there = copy.deepcopy(ANSWERED)
    return planning.Found(**{**there, "searches": frozenset(there["searches"])})


def one(items: Any, title: str) -> Any:
    (item,) = [item for item in items if item["title"] == title]
    return item


def names(steps: list[planning.Step]) -> list[tuple[str, str, str]]:
    return [(step.kind, step.name, step.action) for step in steps]


def test_nothing_is_to_be_done_where_all_is_right() -> None:
    assert planning.plan(options(), found()) == []


def test_everything_is_created_where_there_is_no_graylog() -> None:
    steps = planning.plan(options(), planning.Found(), nowhere=True)
    assert [step.kind for step in steps] == ["index_set"] + ["input"] * 4 + ["stream"] * 4 + ["dashboard"]


Harm = Callable[[planning.Found], object]


def of_input(**changes: Any) -> Harm:
    return lambda there: one(there.inputs, "TTP Logs")["attributes"].update(changes)


def of_widget(change: Callable[[dict[str, Any]], object]) -> Harm:
    def harm(there: planning.Found) -> None:
        (view,) = there.views.values()
        states = view["state"].values()
        (state,) = [state for state in states if state["titles"]["tab"]["title"] == "Sysmetrics Analysis"]
        change(state)

    return harm


def drop_widget(state: dict[str, Any]) -> None:
    (own,) = [own for own, title in state["titles"]["widget"].items() if title == "Memory Used"]
    state["widgets"] = [item for item in state["widgets"] if item["id"] != own]


def drop_tab(there: planning.Found) -> None:
    (view,) = there.views.values()
    view["state"].pop(content.part_id("tab", "Synergos Dashboard", "TTP Analysis"))


def second_tab(there: planning.Found) -> None:
    (view,) = there.views.values()
    view["state"]["new"] = {"titles": {"tab": {"title": "Mine"}}, "widgets": []}


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (of_input(port=1), ("input", "TTP Logs", "update", "port")),
        (of_input(bind_address="127.0.0.1"), ("input", "TTP Logs", "update", "bind_address")),
        (of_input(tls_enable=True), ("input", "TTP Logs", "update", "tls_enable")),
        (lambda there: one(there.inputs, "TTP Logs").update(title="x"), ("input", "TTP Logs", "update", "title")),
        (lambda there: there.inputs.remove(one(there.inputs, "TTP Logs")), ("input", "TTP Logs", "create", "state")),
        (
            lambda there: there.states.pop(one(there.inputs, "TTP Logs")["id"]),
            ("input", "TTP Logs", "start", "state"),
        ),
        (
            lambda there: one(there.streams, "TTP Stream")["rules"][0].update(value="TTP"),
            ("stream", "TTP Stream", "update", "rules"),
        ),
        (lambda there: one(there.streams, "TTP Stream").update(title="x"), ("stream", "TTP Stream", "update", "title")),
        (
            lambda there: one(there.streams, "TTP Stream").update(remove_matches_from_default_stream=True),
            ("stream", "TTP Stream", "update", "remove_matches_from_default_stream"),
        ),
        (
            of_widget(drop_widget),
            ("dashboard", "Synergos Dashboard", "update", "Sysmetrics Analysis / Memory Used"),
        ),
        (
            of_widget(lambda state: state["widgets"].append({**state["widgets"][0], "id": "new"})),
            ("dashboard", "Synergos Dashboard", "update", "Sysmetrics Analysis / new"),
        ),
        (drop_tab, ("dashboard", "Synergos Dashboard", "update", "tab TTP Analysis")),
        (second_tab, ("dashboard", "Synergos Dashboard", "update", "tab Mine")),
    ],
)
def test_what_differs_is_named(harm: Harm, named: tuple[str, str, str, str]) -> None:
    there = found()
    harm(there)
    (step,) = planning.plan(options(), there)
    (reason,) = step.reasons
    assert (step.kind, step.name, step.action, reason["property"]) == named


def test_objects_that_share_only_a_part_are_others() -> None:
    there = found()
    for item in there.inputs:
        item["title"], item["attributes"]["port"] = f"Their {item['title']}", item["attributes"]["port"] + 1
    for stream in there.streams:
        stream["title"] = f"Their {stream['title']}"
        stream["rules"] = stream["rules"] * 2
    steps = planning.plan(options(dashboards=[]), there)
    assert [step.action for step in steps] == ["create"] * 8


def test_of_two_inputs_of_one_title_the_one_at_the_port_is_ours() -> None:
    there = found()
    copied = copy.deepcopy(one(there.inputs, "TTP Logs"))
    copied["id"], copied["attributes"]["port"] = "copy", 9999
    there.inputs.insert(0, copied)  # type: ignore[attr-defined]
    assert planning.plan(options(), there) == []


def test_an_input_of_others_at_the_port_is_named() -> None:
    there = found()
    one(there.inputs, "TTP Logs")["type"] = "org.graylog2.inputs.raw.tcp.RawTCPInput"
    with pytest.raises(GridError, match=r"'TTP Logs' cannot have port 9300: 'TTP Logs' .*RawTCPInput"):
        planning.plan(options(), there)


@pytest.mark.parametrize(
    ("option", "desired"),
    [
        ({"rotation": "size", "max_bytes": 5}, {"max_size": 5}),
        ({"rotation": "count", "max_documents": 6}, {"max_docs_per_index": 6}),
        ({"rotation": "time", "period": "P1D"}, {"rotation_period": "P1D"}),
    ],
)
def test_rotation(option: dict[str, Any], desired: dict[str, Any]) -> None:
    (step,) = planning.plan(options(index_set={**option, "max_indices": 9}), found())
    fields = content.index_set_fields(step.option, step.found or {})
    assert fields["rotation_strategy"] == {"type": fields["rotation_strategy_class"] + "Config", **desired}
    assert {"property": "retention_strategy.max_number_of_indices", "current": 5, "desired": 9} in step.reasons


def test_rotation_needs_its_figure() -> None:
    for option in ({"rotation": "count"}, {"rotation": "time"}):
        given = {"url": "x", "password": "x", "index_set": option}
        assert ArgumentSpecValidator(module.ARGUMENTS).validate(given).error_messages


def test_the_forms_of_later_versions_are_understood() -> None:
    """As the vendor's sources say: pivots of several fields, data tiers since 6.0, more keys in many places."""
    there = found()
    (view,) = there.views.values()
    view["favorite"] = False
    for state in view["state"].values():
        for item in state["widgets"]:
            item["filters"] = []
            for pivots in ("row_pivots", "column_pivots"):
                for pivot in item["config"].get(pivots, []):
                    pivot["fields"] = [pivot.pop("field")]
    (own,) = [item for item in there.index_sets if item["index_prefix"] == "graylog"]
    own |= {"use_legacy_rotation": True, "data_tiering": None}
    assert planning.plan(options(), there) == []
    own["use_legacy_rotation"] = False
    (step,) = planning.plan(options(), there)
    assert [reason["property"] for reason in step.reasons] == ["use_legacy_rotation"]


def test_since_graylog_7_what_is_created_comes_in_an_envelope() -> None:
    assert api.envelope((6, 3), {"title": "a"}) == {"title": "a"}
    assert api.envelope((7, 0), {"title": "a"}) == {
        "entity": {"title": "a"},
        "share_request": {"selected_grantee_capabilities": {}},
    }


def test_versions() -> None:
    assert api.release("3.3.11+9335407") == (3, 3)
    assert api.release("7.0.0-beta.1+abc") == (7, 0)
    for version in ("2.5.1", "3.2.6", "unknown"):
        with pytest.raises(GridError, match=r"older than 3\.3"):
            api.release(version)


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://a", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(GridError, match="to be like"):
        api.Graylog(url, "admin", "x")


def test_the_same_dashboard_always_has_the_same_identifiers() -> None:
    streams = {option["title"]: "0" * 24 for option in options()["streams"]}
    (option,) = options()["dashboards"]
    first, second = content.dashboard(option, streams), content.dashboard(option, streams)
    assert first == second
    other, _ = content.dashboard(option, {**streams, "TTP Stream": "1" * 24})
    assert other["id"] != first[0]["id"]
    assert len(first[0]["id"]) == len(first[1]["id"]) == 24


@pytest.mark.parametrize("text", ["avg()", "avg(a b)", "median(a)", "cpu_percent", "count"])
def test_what_is_no_series_is_refused(text: str) -> None:
    with pytest.raises(GridError, match="is no series"):
        content.series(text)


def test_contradictory_options_are_refused() -> None:
    given = options()
    twice = {**given, "inputs": [*given["inputs"], given["inputs"][0]]}
    with pytest.raises(GridError, match="inputs: the title Sysmetrics Logs is there more than once"):
        content.check(twice)
    with pytest.raises(GridError, match="there is no stream 'Worker Stream' for the tab 'Worker Analysis'"):
        content.check({**given, "streams": []})
    content.check(given)


def test_the_dashboard_is_that_of_the_original_without_its_typo() -> None:
    """Widgets, grid and series of contract 2.2."""
    (option,) = options()["dashboards"]
    tabs = {tab["title"]: tab["widgets"] for tab in option["tabs"]}
    assert sorted(tabs) == ["Director Analysis", "Sysmetrics Analysis", "TTP Analysis", "Worker Analysis"]
    series = {text for item in tabs["Sysmetrics Analysis"] if item["type"] != "messages" for text in item["series"]}
    assert series == {
        "count()",
        "avg(cpu_percent)",
        *(f"avg(memory_{name})" for name in ("total", "used", "available", "free")),
        *(f"max(disk_{name}_counter)" for name in ("read", "write")),
        *(f"stddev(disk_{name}_bytes)" for name in ("read", "write")),
        *(f"max(net_packets_{name})" for name in ("recv", "sent")),
        *(f"stddev(net_bytes_{name})" for name in ("recv", "sent")),
    }
    for widgets in tabs.values():
        cells = [
            (row, col)
            for item in widgets
            for row in range(item["row"], item["row"] + item["height"])
            for col in range(item["col"], item["col"] + item["width"])
        ]
        rows = max(row for row, _ in cells)
        assert sorted(cells) == [(row, col) for row in range(1, rows + 1) for col in range(1, 13)]  # no gap, no overlap
