# SPDX-License-Identifier: GPL-3.0-or-later
"""Graylog's HTTP API as the module `graylog` needs it: wait, read everything once, do a step, purge."""

from __future__ import annotations

import base64
import http.client
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, TypeVar
from urllib.parse import urlsplit

from ansible_collections.synergos.grid.plugins.module_utils import _graylog_content as content
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._graylog_plan import (
    RUNNING,
    Found,
    Step,
    find_index_set,
    match_inputs,
)

OLDEST = (3, 3)
WRAPPED = (7, 0)  # since then, what is created comes in an envelope that also says with whom to share it
HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "X-Requested-By": "synergos"}
POLL = 0.5  # s
REPLY = 30  # s
STARTING = 10  # s
FAILED = ("FAILED", "FAILING", "INVALID_CONFIGURATION")
DECIDED = (RUNNING, *FAILED, "SETUP")  # states of an input that do not change by themselves
# What Graylog takes of an index set when it is changed.
INDEX_SET = (
    "id",
    "title",
    "description",
    "writable",
    "index_optimization_max_num_segments",
    "index_optimization_disabled",
    "field_type_refresh_interval",
)

T = TypeVar("T")


class Away(Exception):
    """Graylog does not answer, or not yet."""


class Refused(GridError):
    """Graylog answered a request with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Graylog:
    """One Graylog, reached at `url` (without `/api`)."""

    def __init__(self, url: str, user: str, password: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise GridError(f"url is {url!r}; it is to be like http://127.0.0.1:9000.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection: Callable[[], http.client.HTTPConnection] = lambda: kind(parts.netloc, timeout=REPLY)
        self._root = parts.path.rstrip("/") + "/api"
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {**HEADERS, "Authorization": f"Basic {login}"}
        self.url = url
        self.user = user
        self.version = (0, 0)

    def _send(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Return status and decoded reply, None for a reply that is empty or no JSON."""
        connection = self._connection()
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self._root + path, data, self._headers)
            reply = connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"{self.url} does not answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if reply.status in (502, 503, 504):
            raise Away(f"{self.url} answers with {reply.status}")
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, None

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded reply, None for an empty one.

        Raises:
            Away: Nothing answers, or a server that is starting.
            Refused: Graylog refuses the request.
        """
        status, reply = self._send(method, path, body)
        if status >= 300:
            said = reply.get("message") if isinstance(reply, dict) else None
            raise Refused(status, f"Graylog refused {method} {path} with {status}: {said or 'it does not say why'}")
        return reply

    def ready(self, prefix: str) -> list[dict[str, Any]]:
        """Learn the version, and return the index sets once messages that arrive are kept.

        Raises:
            Away: Graylog does not run yet, or has no index to write to.
            GridError: What answers is not Graylog, or too old a one, or does not take the password.
        """
        status, about = self._send("GET", "/system", None)
        if status == 401 and is_graylog(self._send("GET", "/", None)[1]):
            raise GridError(f"Graylog at {self.url} does not take this password of {self.user}.")
        if status == 403:
            raise GridError(f"Graylog at {self.url} takes {self.user} for no administrator.")
        if status != 200 or not is_graylog(about):
            raise GridError(f"What answers at {self.url} is not Graylog. The url is that of its pages, without /api.")
        self.version = release(about["version"])
        if about["lifecycle"] != "running":
            raise Away(f"Graylog is {about['lifecycle']}")
        sets = list(self.request("GET", "/system/indices/index_sets")["index_sets"])
        if not sets:
            raise Away(f"Graylog has no index set yet, or shows {self.user} none")
        own = find_index_set(prefix, sets)
        # Where its index does not answer, Graylog answers with 500.
        status, deflector = self._send("GET", f"/system/deflector/{own['id']}", None)
        if status != 200 or not deflector["is_up"]:
            raise Away("Graylog has no index to write to yet; is its Elasticsearch or OpenSearch up?")
        return sets

    def read(self, options: Mapping[str, Any], index_sets: Sequence[Mapping[str, Any]]) -> Found:
        """Return everything that the plan needs to know."""
        views, searches = {}, set()
        for option in options["dashboards"]:
            view = self._maybe(f"/views/{content.dashboard_id(option['title'])}")
            if view:
                views[view["id"]] = view
                if self._maybe(f"/views/search/{view['search_id']}"):
                    searches.add(view["search_id"])
        inputs = self.request("GET", "/system/inputs")["inputs"]
        return Found(
            inputs=inputs,
            states=self.settled_states(match_inputs(options["inputs"], inputs).values()),
            streams=self.request("GET", "/streams")["streams"],
            index_sets=index_sets,
            views=views,
            searches=frozenset(searches),
        )

    def _maybe(self, path: str) -> Any:
        try:
            return self.request("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def states(self) -> dict[str, dict[str, Any]]:
        """State of each input that this server has started, by the input's identifier.

        For a moment after a change Graylog lists an input twice, as it was and as it is.
        """
        listed = self.request("GET", "/system/inputstates")["states"]
        return {state["id"]: state for state in sorted(listed, key=lambda state: str(state["started_at"]))}

    def settled_states(self, inputs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """As `states`, but a server that has just come up gets some time to start its inputs."""
        until = time.monotonic() + STARTING
        while True:
            states = self.states()
            if all(states.get(item["id"], {}).get("state") in DECIDED for item in inputs) or time.monotonic() >= until:
                return states
            time.sleep(POLL)

    def apply(self, step: Step, index_set: str, streams: dict[str, str]) -> None:
        """Do a step. A stream's identifier is put into `streams`; a dashboard takes those that it needs from there."""
        if step.kind == "index_set":
            self._index_set(step)
        elif step.kind == "input":
            self._input(step)
        elif step.kind == "stream":
            self._stream(step, index_set, streams)
        else:
            self._dashboard(step, streams)

    def _index_set(self, step: Step) -> None:
        assert step.found is not None
        body = {key: value for key, value in step.found.items() if key in INDEX_SET}
        body.update(content.index_set_fields(step.option, step.found))
        self.request("PUT", f"/system/indices/index_sets/{body['id']}", body)

    def _input(self, step: Step) -> None:
        body = {
            "title": step.option["title"],
            "type": content.GELF_TCP,
            "global": True,
            "configuration": content.input_attributes(step.option),
        }
        if step.found is None:
            self.request("POST", "/system/inputs", body)
        elif step.action == "start":
            self.request("PUT", f"/system/inputstates/{step.found['id']}")
        else:
            self.request("PUT", f"/system/inputs/{step.found['id']}", body)

    def _stream(self, step: Step, index_set: str, streams: dict[str, str]) -> None:
        body, wanted = content.stream_fields(step.option, index_set), content.stream_rule(step.option)
        rule = {**wanted, "description": ""}
        if step.found is None:
            own = self.request("POST", "/streams", envelope(self.version, {**body, "rules": [rule]}))["stream_id"]
        else:
            own = step.found["id"]
            self.request("PUT", f"/streams/{own}", body)
            kept = [r for r in step.found["rules"] if all(r[key] == value for key, value in wanted.items())][:1]
            for surplus in step.found["rules"]:
                if surplus not in kept:
                    self.request("DELETE", f"/streams/{own}/rules/{surplus['id']}")
            if not kept:
                self.request("POST", f"/streams/{own}/rules", rule)
        streams[step.option["title"]] = own
        if step.found is None or step.found["disabled"]:
            self.request("POST", f"/streams/{own}/resume")

    def _dashboard(self, step: Step, streams: Mapping[str, str]) -> None:
        search, view = content.dashboard(step.option, streams)
        self.request("POST", "/views/search", search)
        if step.found is None:
            self.request("POST", "/views", envelope(self.version, view))
        else:
            self.request("PUT", f"/views/{view['id']}", view)

    def settle(self, options: Sequence[Mapping[str, Any]]) -> None:
        """Raise Away unless all these inputs are running, GridError if one has failed."""
        ours = match_inputs(options, self.request("GET", "/system/inputs")["inputs"])
        states = self.states()
        for option in options:
            state = states.get(ours[option["title"]]["id"], {})
            if state.get("state") in FAILED:
                said = state.get("detailed_message") or "no reason given"
                raise GridError(
                    f"Graylog cannot open the input {option['title']!r} at port {option['port']}: {said} "
                    "Free the port in the machine or container of Graylog, or choose another."
                )
            if state.get("state") != RUNNING:
                raise Away(f"the input {option['title']!r} is {state.get('state', 'not started')}")

    def stored(self, index_set: str) -> dict[str, int]:
        """Messages in each index of the set."""
        overview = self.request("GET", f"/system/indexer/overview/{index_set}")
        return {name: (index["size"] or {}).get("events", 0) for name, index in overview["indices"].items()}

    def purge(self, index_set: str, indices: Mapping[str, int]) -> None:
        """Delete every index of the set; Graylog writes to a new one from now on."""
        self.request("POST", f"/system/deflector/{index_set}/cycle")
        for name in indices:
            self.request("DELETE", f"/system/indexer/indices/{name}")


def envelope(version: tuple[int, int], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What creates an object that Graylog can share with users."""
    return {"entity": body, "share_request": {"selected_grantee_capabilities": {}}} if version >= WRAPPED else body


def is_graylog(about: Any) -> bool:
    return isinstance(about, dict) and {"cluster_id", "version"} <= set(about)


def release(version: str) -> tuple[int, int]:
    """Major and minor of a version such as `3.3.11+9335407`; GridError if it is too old for this module."""
    found = re.match(r"(\d+)\.(\d+)", version)
    numbers = (int(found.group(1)), int(found.group(2))) if found else (0, 0)
    if numbers < OLDEST:
        raise GridError(f"Graylog {version} is older than 3.3, the first that this module can configure.")
    return numbers


def patiently(action: Callable[[], T], timeout: float) -> T:
    """Return what `action` does once it no longer raises Away; GridError after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        try:
            return action()
        except Away as error:
            if time.monotonic() >= until:
                raise GridError(f"Waited {timeout:g} s for Graylog: {error}.") from None
            time.sleep(POLL)
