# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module `rabbitmq` does: from its options and what RabbitMQ holds to the requests that put it right."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

TAG = "synergos"  # of the users that the module made: those may be removed
VHOST = "/"
POLL = 0.5  # s
REPLY = 30  # s


def password_hash(password: str, salt: bytes | None = None) -> str:
    """Return what RabbitMQ keeps of a password: salted SHA-256.

    Without a salt one is taken that belongs to the password, so that the same one always gives the same text. That is
    for passwords that nobody else has, not for those that people think of.
    """
    if salt is None:
        salt = hashlib.sha256(b"rabbitmq\0" + password.encode()).digest()[:4]
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def same_password(kept: str, password: str) -> bool:
    """Say whether RabbitMQ keeps this password."""
    return password_hash(password, base64.b64decode(kept)[:4]) == kept


@dataclass
class Step:
    """One thing to do, why, and the requests that do it."""

    kind: str
    name: str
    action: str
    reasons: list[dict[str, Any]]
    requests: Sequence[tuple[str, str, Any]]

    def report(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "action": self.action, "reasons": self.reasons}


def plan(options: Mapping[str, Any], found: Mapping[str, Any]) -> list[Step]:
    """Return the steps in the order in which they have to be done.

    Args:
        options: The module's options.
        found: RabbitMQ's definitions, empty where there is no RabbitMQ yet.

    Raises:
        GridError: An exchange or a queue is of another type.
    """
    steps = _policies(options["policies"], _here(found, "policies"))
    steps += _fixed("exchange", options["exchanges"], _here(found, "exchanges"))
    steps += _fixed("queue", options["queues"], _here(found, "queues"))
    steps += _bindings(options["bindings"], _here(found, "bindings"))
    steps += _users(options, found)
    return steps


def _here(found: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [item for item in found.get(kind, []) if item["vhost"] == VHOST]


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _differences(current: Mapping[str, Any], desired: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"property": key, "current": current.get(key), "desired": value}
        for key, value in desired.items()
        if current.get(key) != value
    ]


def _missing(desired: Any) -> list[dict[str, Any]]:
    return [{"property": "state", "current": "absent", "desired": desired}]


def _policies(options: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Step]:
    steps = []
    there = {item["name"]: item for item in found}
    for option in options:
        name = option["name"]
        body = {"pattern": option["pattern"], "apply-to": "queues", "priority": 0, "definition": option["definition"]}
        reasons = _differences(there[name], body) if name in there else _missing("present")
        if reasons:
            action = "update" if name in there else "create"
            steps.append(Step("policy", name, action, reasons, [("PUT", _path("policies", VHOST, name), body)]))
    return steps


def _fixed(kind: str, options: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Step]:
    """Exchanges and queues: RabbitMQ does not change what they are once they are there."""
    steps = []
    there = {item["name"]: item for item in found}
    for option in options:
        name, type_ = option["name"], option["type"]
        if name in there:
            item = there[name]
            is_type = item["type"] if kind == "exchange" else item["arguments"].get("x-queue-type", "classic")
            if is_type != type_ or not item["durable"]:
                durable = "" if item["durable"] else ", not durable"
                raise GridError(
                    f"RabbitMQ has the {kind} {name!r} as {is_type}{durable}; it is to be {type_} and durable. "
                    "Delete it (what it holds goes with it) and run this again."
                )
            continue
        body: dict[str, Any] = {"durable": True, "auto_delete": False}
        body.update({"type": type_} if kind == "exchange" else {"arguments": {"x-queue-type": type_}})
        steps.append(Step(kind, name, "create", _missing(type_), [("PUT", _path(f"{kind}s", VHOST, name), body)]))
    return steps


def _bindings(options: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Step]:
    there = {(item["source"], item["destination"], item["routing_key"]) for item in found}
    steps = []
    for option in options:
        exchange, queue, key = option["exchange"], option["queue"], option["key"]
        if (exchange, queue, key) not in there:
            path = _path("bindings", VHOST, "e", exchange, "q", queue)
            request = ("POST", path, {"routing_key": key, "arguments": {}})
            steps.append(Step("binding", f"{exchange} → {queue}", "create", _missing(key), [request]))
    return steps


def _users(options: Mapping[str, Any], found: Mapping[str, Any]) -> list[Step]:
    there = {item["name"]: item for item in found.get("users", [])}
    rights = {item["user"]: item for item in _here(found, "permissions")}
    steps = []
    for name, kind in sorted(options["users"].items()):
        password, body = options["passwords"][name], options["rights"][kind]
        reasons = []
        requests: list[tuple[str, str, Any]] = []
        if name not in there:
            reasons = _missing(kind)
        else:
            if not same_password(there[name]["password_hash"], password):
                reasons.append({"property": "password", "current": "(another)", "desired": "(secret)"})
            reasons += _differences(there[name], {"tags": [TAG]})
        if reasons:
            user = {"password_hash": password_hash(password), "tags": [TAG]}
            requests.append(("PUT", _path("users", name), user))
        differing = _differences(rights.get(name, {}), body)
        if differing:
            requests.append(("PUT", _path("permissions", VHOST, name), body))
        if requests:
            action = "update" if name in there else "create"
            steps.append(Step("user", name, action, [*reasons, *differing], requests))
    for name, item in sorted(there.items()):
        # `guest` is the one that everybody knows.
        if name not in options["users"] and (TAG in item["tags"] or name == "guest"):
            gone = [{"property": "state", "current": "present", "desired": "absent"}]
            steps.append(Step("user", name, "delete", gone, [("DELETE", _path("users", name), None)]))
    return steps


class Away(Exception):
    """RabbitMQ does not answer, or not yet."""


class RabbitMQ:
    """The API of RabbitMQ's management plugin at `url` (without `/api`)."""

    def __init__(self, url: str, user: str, password: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise GridError(f"url is {url!r}; it is to be like http://127.0.0.1:15672.")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host = parts.netloc
        self._root = parts.path.rstrip("/") + "/api"
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        self.url = url
        self.user = user

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded reply, None for an empty one.

        Raises:
            Away: Nothing answers, or a server that is starting.
            GridError: RabbitMQ refuses the request.
        """
        connection = self._kind(self._host, timeout=REPLY)
        try:
            connection.request(method, self._root + path, None if body is None else json.dumps(body), self._headers)
            reply = connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"{self.url} does not answer: {error or type(error).__name__}") from None
        finally:
            connection.close()
        if reply.status in (502, 503, 504):
            raise Away(f"{self.url} answers with {reply.status}")
        if reply.status == 401:
            raise GridError(f"RabbitMQ at {self.url} does not take this password of {self.user}.")
        try:
            said = json.loads(text) if text else None
        except ValueError:
            raise GridError(f"What answers at {self.url} is not RabbitMQ's management plugin.") from None
        if reply.status >= 300:
            reason = said.get("reason") if isinstance(said, dict) else None
            raise GridError(f"RabbitMQ refused {method} {path} with {reply.status}: {reason or 'it does not say why'}")
        return said

    def definitions(self, timeout: float = 0) -> Mapping[str, Any]:
        """Return all that RabbitMQ was told to have. Raises `Away` if it does not answer within `timeout` seconds."""
        until = time.monotonic() + timeout
        while True:
            try:
                found = self.request("GET", "/definitions")
            except Away:
                if time.monotonic() >= until:
                    raise
                time.sleep(POLL)
                continue
            if not isinstance(found, dict) or "rabbitmq_version" not in found:
                raise GridError(f"What answers at {self.url} is not RabbitMQ's management plugin.")
            return found
