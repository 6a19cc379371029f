# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of the module `graylog` and what Graylog holds to the list of things to do. Pure.

An object is ours if it has our title; failing that, an input of the type at the port, or a stream with the very rule. A
dashboard is ours by its identifier. So one that was renamed is named and put right, and everything else is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils import _graylog_content as content
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

RUNNING = "RUNNING"
WILDCARDS = ("0.0.0.0", "::", "")
PENDING = "(to be created)"  # stands for the identifier of a stream until Graylog has given it one


@dataclass
class Found:
    """What Graylog holds. Empty where there is no Graylog yet."""

    inputs: Sequence[Mapping[str, Any]] = ()
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of inputs, by their identifiers
    streams: Sequence[Mapping[str, Any]] = ()
    index_sets: Sequence[Mapping[str, Any]] = ()
    views: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by their identifiers
    searches: frozenset[str] = frozenset()  # identifiers of those of our dashboards that are there


@dataclass
class Step:
    """One thing to do, and why. `found` is the object as it is, None if it is to be created."""

    kind: str
    name: str
    action: str
    reasons: list[dict[str, Any]]
    option: Mapping[str, Any]
    found: Mapping[str, Any] | None = None

    def report(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "action": self.action, "reasons": self.reasons}


def plan(options: Mapping[str, Any], found: Found, nowhere: bool = False) -> list[Step]:
    """Return the steps in the order in which they have to be done.

    Args:
        options: The module's options.
        found: What Graylog holds.
        nowhere: There is no Graylog yet: everything is to be created, and nothing can be in the way.

    Raises:
        GridError: Something of others is in the way.
    """
    if nowhere:
        index_set: Mapping[str, Any] = {"id": PENDING}
        steps = [Step("index_set", options["index_set"]["prefix"], "create", absent(), options["index_set"])]
    else:
        index_set = find_index_set(options["index_set"]["prefix"], found.index_sets)
        steps = plan_index_set(options["index_set"], index_set)
    steps += plan_inputs(options["inputs"], found)
    streams = match_streams(options["streams"], found.streams)
    for option in options["streams"]:
        steps += plan_stream(option, streams.get(option["title"]), index_set["id"])
    ids = {option["title"]: str(streams.get(option["title"], {}).get("id", PENDING)) for option in options["streams"]}
    for option in options["dashboards"]:
        steps += plan_dashboard(option, found, ids)
    return steps


def find_index_set(prefix: str, index_sets: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    for candidate in index_sets:
        if candidate["index_prefix"] == prefix:
            return candidate
    there = ", ".join(sorted(candidate["index_prefix"] for candidate in index_sets))
    raise GridError(f"Graylog has no index set with the prefix {prefix!r} (it has {there}): name one of these.")


def plan_index_set(option: Mapping[str, Any], current: Mapping[str, Any]) -> list[Step]:
    differences = compare(content.index_set_fields(option, current), current)
    return [Step("index_set", option["prefix"], "update", differences, option, current)] if differences else []


def match_inputs(
    options: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    return match(
        options,
        [item for item in inputs if item["type"] == content.GELF_TCP],
        (
            lambda option, item: item["title"] == option["title"] and item["attributes"]["port"] == option["port"],
            lambda option, item: item["title"] == option["title"],
            lambda option, item: item["attributes"]["port"] == option["port"],
        ),
    )


def plan_inputs(options: Sequence[Mapping[str, Any]], found: Found) -> list[Step]:
    ours = match_inputs(options, found.inputs)
    steps = []
    known = {item["id"] for item in ours.values()}
    for option in options:
        refuse_taken(option, [item for item in found.inputs if item["id"] not in known])
        desired = {"title": option["title"], "global": True, **content.input_attributes(option)}
        item = ours.get(option["title"])
        if item is None:
            steps.append(Step("input", option["title"], "create", absent(), option))
            continue
        differences = compare(desired, {**item["attributes"], "title": item["title"], "global": item["global"]})
        if differences:
            steps.append(Step("input", option["title"], "update", differences, option, item))
        elif found.states.get(item["id"], {}).get("state") != RUNNING:
            state = found.states.get(item["id"], {}).get("state", "stopped")
            reason = {"property": "state", "current": state, "desired": RUNNING}
            steps.append(Step("input", option["title"], "start", [reason], option, item))
    return steps


def refuse_taken(option: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    """Raise GridError if an input that is not ours listens where this one should."""
    for other in others:
        attributes = other["attributes"]
        addresses = (attributes.get("bind_address", ""), option["bind_address"])
        overlap = addresses[0] == addresses[1] or any(address in WILDCARDS for address in addresses)
        tcp = not other["type"].lower().endswith("udpinput")
        if tcp and attributes.get("port") == option["port"] and overlap:
            raise GridError(
                f"Input {option['title']!r} cannot have port {option['port']}: {other['title']!r} ({other['type']}) "
                "has it. Remove that input or give one of them another port."
            )


def match_streams(
    options: Sequence[Mapping[str, Any]], streams: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    own = [stream for stream in streams if not stream.get("is_default")]
    return match(
        options,
        own,
        (
            lambda option, item: item["title"] == option["title"],
            lambda option, item: [essence(rule) for rule in item["rules"]] == [content.stream_rule(option)],
        ),
    )


def plan_stream(option: Mapping[str, Any], stream: Mapping[str, Any] | None, index_set: str) -> list[Step]:
    if stream is None:
        return [Step("stream", option["title"], "create", absent(), option)]
    desired = {**content.stream_fields(option, index_set), "disabled": False}
    differences = compare(desired, stream)
    rules, wanted = [essence(rule) for rule in stream["rules"]], [content.stream_rule(option)]
    if rules != wanted:
        differences.append({"property": "rules", "current": rules, "desired": wanted})
    return [Step("stream", option["title"], "update", differences, option, stream)] if differences else []


def essence(rule: Mapping[str, Any]) -> dict[str, Any]:
    """A stream's rule without what Graylog adds to it."""
    return {key: rule[key] for key in ("field", "type", "value", "inverted")}


def plan_dashboard(option: Mapping[str, Any], found: Found, streams: Mapping[str, str]) -> list[Step]:
    search, desired = content.dashboard(option, streams)
    view = found.views.get(desired["id"])
    if view is None:
        return [Step("dashboard", option["title"], "create", absent(), option)]
    plain = {key: desired[key] for key in ("type", "title", "summary", "description")}
    differences = compare(plain, view) + compare_tabs(desired["state"], view.get("state", {}))
    if not differences and view["search_id"] != search["id"]:
        # Graylog's pages store a new search whenever they save a dashboard.
        differences.append({"property": "search", "current": view["search_id"], "desired": search["id"]})
    if not differences and search["id"] not in found.searches:
        differences.append({"property": "search", "current": "absent", "desired": search["id"]})
    return [Step("dashboard", option["title"], "update", differences, option, view)] if differences else []


def compare_tabs(desired: Mapping[str, Any], current: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name the widgets that differ: `tab / widget: what`."""
    differences = []
    for query, tab in desired.items():
        name = tab["titles"]["tab"]["title"]
        if query not in current:
            differences += absent(f"tab {name}")
            continue
        there = current[query]
        differences += compare(tab["titles"]["tab"], there["titles"].get("tab", {}), f"tab {name}: ")
        widgets = {item["id"]: item for item in there["widgets"]}
        titles, positions = there["titles"].get("widget", {}), there["positions"]
        for item in tab["widgets"]:
            own = item["id"]
            label = f"{name} / {tab['titles']['widget'][own]}"
            if own not in widgets:
                differences += absent(label)
                continue
            aim = {**item, "title": tab["titles"]["widget"][own], "position": tab["positions"][own]}
            state = {**current_form(widgets[own]), "title": titles.get(own), "position": positions.get(own)}
            differences += compare(aim, state, f"{label}: ")
            if there["widget_mapping"].get(own) != tab["widget_mapping"][own]:
                differences += compare({"search": tab["widget_mapping"][own]}, {"search": "other"}, f"{label}: ")
        wanted = {item["id"] for item in tab["widgets"]}
        for own in widgets:
            if own not in wanted:
                differences.append(surplus(f"{name} / {titles.get(own) or own}"))
    differences += [surplus(f"tab {title_of(tab) or query}") for query, tab in current.items() if query not in desired]
    return differences


def title_of(tab: Mapping[str, Any]) -> str:
    return str(tab.get("titles", {}).get("tab", {}).get("title", ""))


def current_form(widget: Mapping[str, Any]) -> dict[str, Any]:
    """A widget in the form that Graylog 3.3 gives back: in later versions a pivot may have several fields."""
    config = dict(widget["config"])
    for key in ("row_pivots", "column_pivots"):
        if key in config:
            config[key] = [
                {**pivot, "field": pivot["fields"][0]} if len(pivot.get("fields", ())) == 1 else pivot
                for pivot in config[key]
            ]
    return {**widget, "config": config}


def match(
    options: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, Any]], ways: Sequence[Any]
) -> dict[str, Mapping[str, Any]]:
    """Return which item belongs to which option's title. An earlier way goes before a later one for all options."""
    ours: dict[str, Mapping[str, Any]] = {}
    for way in ways:
        for option in options:
            taken = {item["id"] for item in ours.values()}
            if option["title"] not in ours:
                for item in items:
                    if item["id"] not in taken and way(option, item):
                        ours[option["title"]] = item
                        break
    return ours


def compare(desired: Any, current: Any, name: str = "") -> list[dict[str, Any]]:
    """Return where `current` is not `desired`. Keys of objects that are not in `desired` do not count."""
    if isinstance(desired, Mapping) and isinstance(current, Mapping):
        differences = []
        for key, value in desired.items():
            path = f"{name}{key}" if not name or name.endswith(" ") else f"{name}.{key}"
            differences += compare(value, current.get(key), path)
        return differences
    if isinstance(desired, list) and isinstance(current, list) and len(desired) == len(current):
        return [text for mine, theirs in zip(desired, current) for text in compare(mine, theirs, name)]
    if desired == current:
        return []
    return [{"property": name, "current": current, "desired": desired}]


def absent(name: str = "state") -> list[dict[str, Any]]:
    return [{"property": name, "current": "absent", "desired": "present"}]


def surplus(name: str) -> dict[str, Any]:
    return {"property": name, "current": "present", "desired": "absent"}
