# SPDX-License-Identifier: GPL-3.0-or-later
"""Graylog's HTTP API as the module `graylog` needs it: wait, read everything once, do a step, purge."""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible.module_utils.urls import open_url
from ansible_collections.synergos.grid.plugins.module_utils import _graylog_content as content
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._graylog_plan import RUNNING, Found, Step, find_index_set

OLDEST = (3, 3)
WRAPPED = (7, 0)  # since then, what is created comes in an envelope that also says with whom to share it
HEADERS = {"Accept": "application/json", "Content-Type": "application/json", "X-Requested-By": "synergos"}
POLL = 0.5  # s
REPLY = 30  # s
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
        self.url = url.rstrip("/")
        self._login = {"url_username": user, "url_password": password, "force_basic_auth": True}
        self.user = user
        self.version = (0, 0)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded reply, None for an empty one.

        Raises:
            Away: Nothing answers, or a server that is starting.
            Refused: The server refuses the request.
            GridError: The reply is not Graylog's.
        """
        try:
            with open_url(
                f"{self.url}/api{path}",
                method=method,
                data=None if body is None else json.dumps(body),
                headers={
                    "Accept": "application/json",
                    "Content-Type": "application/json",
                    "X-Requested-By": "synergos",
                },
                timeout=REPLY,
                use_proxy=False,
                follow_redirects="none",
                **self._login,
            ) as reply:
                text = reply.read()
        except urllib.error.HTTPError as error:
            raise self._refused(method, path, error) from None
        except (OSError, urllib.error.URLError) as error:
            raise Away(f"{self.url} does not answer: {getattr(error, 'reason', error)}") from None
        if not text:
            return None
        try:
            return json.loads(text)
        except ValueError:
            raise self._stranger() from None

    def _refused(self, method: str, path: str, error: urllib.error.HTTPError) -> Exception:
        if error.code == 401:
            return GridError(f"Graylog at {self.url} does not take this password of {self.user}.")
        if error.code in (502, 503, 504):
            return Away(f"{self.url} answers with {error.code}")
        try:
            said = json.loads(error.read())["message"]
        except (ValueError, KeyError, TypeError):
            said = error.reason
        return Refused(error.code, f"Graylog refused {method} {path}: {said} ({error.code})")

    def _stranger(self) -> GridError:
        return GridError(f"What answers at {self.url} is not Graylog: url is the address of its pages, without /api.")

    def identify(self) -> None:
        """Learn the version; needs no password.

        Raises:
            Away: Nothing answers.
            GridError: What answers is not Graylog, or too old a one.
        """
        try:
            about = self.request("GET", "/")
        except Refused:
            raise self._stranger() from None
        if not isinstance(about, dict) or not {"cluster_id", "version"} <= set(about):
            raise self._stranger()
        parts = str(about["version"]).split("+")[0].split(".")
        try:
            self.version = (int(parts[0]), int(parts[1]))
        except (ValueError, IndexError):
            raise GridError(f"{self.url} says it is Graylog {about['version']!r}, which is no version.") from None
        if self.version < OLDEST:
            raise GridError(f"Graylog {about['version']} is older than 3.3, the first that this module can configure.")

    def writable(self, prefix: str) -> None:
        """Raise Away unless messages that arrive now are kept: the server runs and its write index is there."""
        about = self.request("GET", "/system")
        if about["lifecycle"] != "running":
            raise Away(f"Graylog is {about['lifecycle']}")
        sets = self.index_sets()
        if not sets:
            raise Away("Graylog has no index set yet")
        own = find_index_set(prefix, sets)
        if not self.request("GET", f"/system/deflector/{own['id']}")["is_up"]:
            raise Away("Graylog has no index to write to yet; is its Elasticsearch or OpenSearch up?")

    def read(self, options: Mapping[str, Any]) -> Found:
        """Return everything that the plan needs to know."""
        views, searches = {}, set()
        for option in options["dashboards"]:
            view = self._maybe(f"/views/{content.dashboard_id(option['title'])}")
            if view:
                views[view["id"]] = view
                if self._maybe(f"/views/search/{view['search_id']}"):
                    searches.add(view["search_id"])
        return Found(
            version=self.version,
            inputs=self.request("GET", "/system/inputs")["inputs"],
            states=self.states(),
            streams=self.request("GET", "/streams")["streams"],
            index_sets=self.index_sets(),
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
        """State of each input that this server has started, by the input's identifier."""
        return {state["id"]: state for state in self.request("GET", "/system/inputstates")["states"]}

    def index_sets(self) -> list[dict[str, Any]]:
        return list(self.request("GET", "/system/indices/index_sets")["index_sets"])

    def create(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create an object that Graylog can share with users."""
        envelope = {"entity": body, "share_request": None} if self.version >= WRAPPED else body
        return self.request("POST", path, envelope)

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
            own = self.create("/streams", {**body, "rules": [rule]})["stream_id"]
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
            self.create("/views", view)
        else:
            self.request("PUT", f"/views/{view['id']}", view)

    def settle(self, options: Sequence[Mapping[str, Any]]) -> None:
        """Raise Away unless all these inputs are running, GridError if one has failed."""
        ids = {item["title"]: item["id"] for item in self.request("GET", "/system/inputs")["inputs"]}
        states = self.states()
        for option in options:
            state = states.get(ids[option["title"]], {})
            if state.get("state") in ("FAILED", "FAILING"):
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


def patiently(action: Callable[[], None], until: float) -> None:
    """Repeat `action` until it no longer raises Away, at most to the monotonic time `until`; then GridError."""
    while True:
        try:
            return action()
        except Away as error:
            if time.monotonic() >= until:
                raise GridError(f"Waited long enough: {error}.") from None
            time.sleep(POLL)
