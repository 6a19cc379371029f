# SPDX-License-Identifier: GPL-3.0-or-later
"""From the options of the module `graylog` to what Graylog's API is to hold. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

GELF_TCP = "org.graylog2.inputs.gelf.tcp.GELFTCPInput"
STRATEGIES = "org.graylog2.indexer."
CONTAINS = 6  # type of a stream's rule
NAMESPACE = uuid.UUID("6ff2f1a7-0a1a-5a0b-9d0c-2f7c5f3f6a10")
SERIES = re.compile(r"^(count|avg|max|min|sum|stddev)\((\w*)\)$")
TABLE_ROWS = 150  # as Graylog's own pages ask for

# What the option does not say about an input. Compressed messages up to 8 MiB are read, and no more.
INPUT_FIXED = {
    "recv_buffer_size": 1048576,
    "number_worker_threads": 4,
    "use_null_delimiter": True,
    "decompress_size_limit": 8388608,
    "tls_enable": False,
}


def input_attributes(option: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a GELF TCP input."""
    own = {key: option[key] for key in ("bind_address", "port", "max_message_size")}
    return {**own, **INPUT_FIXED}


def stream_fields(option: Mapping[str, Any], index_set: str) -> dict[str, Any]:
    """A stream without its rule."""
    return {
        "title": option["title"],
        "description": option["description"] or f"Messages whose {option['field']} contains {option['contains']}",
        "matching_type": "AND",
        "remove_matches_from_default_stream": False,
        "index_set_id": index_set,
    }


def stream_rule(option: Mapping[str, Any]) -> dict[str, Any]:
    """The one rule of a stream."""
    return {"field": option["field"], "type": CONTAINS, "value": option["contains"], "inverted": False}


def index_set_fields(option: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """What the option sets of the index set that is `current`."""
    rotation, setting = {
        "count": ("MessageCount", {"max_docs_per_index": option["max_documents"]}),
        "size": ("SizeBased", {"max_size": option["max_bytes"]}),
        "time": ("TimeBased", {"rotation_period": option["period"]}),
    }[option["rotation"]]
    rotation = f"{STRATEGIES}rotation.strategies.{rotation}RotationStrategy"
    retention = f"{STRATEGIES}retention.strategies.DeletionRetentionStrategy"
    return {
        "shards": option["shards"],
        "replicas": option["replicas"],
        "rotation_strategy_class": rotation,
        "rotation_strategy": {"type": rotation + "Config", **setting},
        "retention_strategy_class": retention,
        "retention_strategy": {"type": retention + "Config", "max_number_of_indices": option["max_indices"]},
        # Graylog >= 6 does not rotate by these strategies while the index set has data tiers.
        **({"use_legacy_rotation": True} if "use_legacy_rotation" in current else {}),
    }


def object_id(*parts: str) -> str:
    """An identifier in the form of the database's own that always comes out the same for the same parts."""
    return hashlib.sha256("\n".join(("synergos.grid", *parts)).encode()).hexdigest()[:24]


def dashboard_id(title: str) -> str:
    """Identifier of the dashboard: it is ours by that, whatever its title has become."""
    return object_id("dashboard", title)


def part_id(*parts: str) -> str:
    """Identifier of a tab, a widget or a widget's search."""
    return str(uuid.uuid5(NAMESPACE, "\n".join(parts)))


def dashboard(option: Mapping[str, Any], streams: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the search and the view that make a dashboard.

    Args:
        option: One of the module's `dashboards`.
        streams: Identifiers of streams by their titles.

    Raises:
        GridError: A tab names a stream that is not in `streams`, or a series cannot be read.
    """
    title = option["title"]
    timerange = {"type": "relative", "range": option["last"]}
    queries, state = [], {}
    for tab in option["tabs"]:
        if tab["stream"] not in streams:
            raise GridError(f"Dashboard {title}: there is no stream {tab['stream']!r} for the tab {tab['title']!r}.")
        frame = {
            "timerange": timerange,
            "query": {"type": "elasticsearch", "query_string": ""},
            "streams": [streams[tab["stream"]]],
        }
        searches, widgets, titles, positions, mapping = [], [], {}, {}, {}
        for item in tab["widgets"]:
            own = part_id("widget", title, tab["title"], item["title"])
            search = part_id("search", title, tab["title"], item["title"])
            kind, config, search_type = widget(item)
            widgets.append({"id": own, "type": kind, "filter": None, **frame, "config": config})
            searches.append({"id": search, "filter": None, **frame, **search_type})
            titles[own] = item["title"]
            positions[own] = {key: item[key] for key in ("col", "row", "width", "height")}
            mapping[own] = [search]
        query = part_id("tab", title, tab["title"])
        queries.append(
            {"id": query, "query": frame["query"], "timerange": timerange, "filter": None, "search_types": searches}
        )
        state[query] = {
            "titles": {"tab": {"title": tab["title"]}, "widget": titles},
            "widgets": widgets,
            "widget_mapping": mapping,
            "positions": positions,
        }
    content = json.dumps(queries, sort_keys=True)
    search_body = {"id": object_id("search", content), "queries": queries, "parameters": []}
    view = {
        "id": dashboard_id(title),
        "type": "DASHBOARD",
        "title": title,
        "summary": option["summary"],
        "description": option["description"],
        "search_id": search_body["id"],
        "properties": [],
        "requires": {},
        "state": state,
    }
    return search_body, view


def widget(item: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return type and config of a widget, and the search that fills it."""
    if item["type"] == "messages":
        config = {
            "fields": item["fields"],
            "show_message_row": True,
            "decorators": [],
            "sort": [{"type": "pivot", "field": "timestamp", "direction": "Descending"}],
        }
        newest = [{"field": "timestamp", "order": "DESC"}]
        return "messages", config, {"type": "messages", "limit": TABLE_ROWS, "offset": 0, "sort": newest}
    by_value = {"type": "values", "field": item["by"]}
    by_time = {"type": "time", "field": "timestamp"}
    limit, interval = {"limit": item["limit"]}, {"interval": {"type": "auto", "scaling": 1.0}}
    over_time = item["type"] != "pie"
    config = {
        "row_pivots": [{**by_time, "config": interval}] if over_time else [{**by_value, "config": limit}],
        "column_pivots": [{**by_value, "config": limit}] if over_time else [],
        "series": [{"config": {"name": None}, "function": text} for text in item["series"]],
        "sort": [],
        "visualization": item["type"],
        "visualization_config": {"barmode": "stack"} if item["type"] == "bar" else None,
        "rollup": not over_time,  # the total would be one more bar on the stack
        "event_annotation": False,
    }
    search = {
        "type": "pivot",
        "name": "chart",  # under which Graylog's pages look for the result
        "row_groups": [{**by_time, **interval}] if over_time else [{**by_value, **limit}],
        "column_groups": [{**by_value, **limit}] if over_time else [],
        "series": [series(text) for text in item["series"]],
        "sort": [],
        "rollup": not over_time,
    }
    return "aggregation", config, search


def series(text: str) -> dict[str, Any]:
    """Return the search's form of a series such as `avg(cpu_percent)`."""
    found = SERIES.match(text)
    if not found or (not found.group(2) and found.group(1) != "count"):
        raise GridError(f"{text!r} is no series: write count() or one of avg, max, min, sum, stddev with (a_field).")
    function, field = found.groups()
    return {"type": function, "id": text, **({"field": field} if field else {})}


def check(options: Mapping[str, Any]) -> None:
    """Raise GridError for options that contradict each other or that Graylog would refuse."""
    for kind in ("inputs", "streams", "dashboards"):
        refuse_twice(kind, "title", [option["title"] for option in options[kind]])
    refuse_twice("inputs", "port", [option["port"] for option in options["inputs"]])
    streams = {option["title"]: "" for option in options["streams"]}
    for option in options["dashboards"]:
        refuse_twice(f"tabs of {option['title']}", "title", [tab["title"] for tab in option["tabs"]])
        for tab in option["tabs"]:
            refuse_twice(f"widgets of {tab['title']}", "title", [item["title"] for item in tab["widgets"]])
        dashboard(option, streams)


def refuse_twice(what: str, key: str, values: Sequence[Any]) -> None:
    twice = sorted({str(value) for value in values if list(values).count(value) > 1})
    if twice:
        raise GridError(f"{what}: the {key} {', '.join(twice)} is there more than once.")
