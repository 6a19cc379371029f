# SPDX-License-Identifier: GPL-3.0-or-later
"""What users are shown of containers: one record each, and a sentence for each that is not well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._desired import COMPONENT_LABEL, RESET_LABEL


def component(name: str, inspected: Mapping[str, Any] | None) -> dict[str, Any]:
    """The record of one container, None if it does not exist."""
    if inspected is None:
        return {
            "component": None,
            "name": name,
            "address": None,
            "ports": "",
            "health": "unhealthy",
            "status": "missing",
            "image": None,
            "since": None,
            "reset": [],
        }
    config, state = inspected["Config"], inspected["State"]
    labels = config.get("Labels") or {}
    endpoint = (inspected["NetworkSettings"].get("Networks") or {}).get(inspected["HostConfig"]["NetworkMode"]) or {}
    since = state["StartedAt"] if state["Running"] or state["Status"] == "created" else state["FinishedAt"]
    return {
        "component": labels.get(COMPONENT_LABEL),
        "name": name,
        "address": endpoint.get("IPAddress") or (endpoint.get("IPAMConfig") or {}).get("IPv4Address"),
        "ports": _ports(inspected),
        "health": health(inspected),
        "status": state["Status"],
        "image": config["Image"],
        "since": None if since.startswith("0001") else f"{since[:19]}Z",
        "reset": json.loads(labels.get(RESET_LABEL, "[]")),
    }


def health(inspected: Mapping[str, Any]) -> str:
    """healthy, unhealthy, starting, or none for a container without a check."""
    check = (inspected["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    state = inspected["State"]
    if check[0] == "NONE":
        return "none" if state["Status"] == "running" else "unhealthy"
    if state["Status"] != "running":
        return "unhealthy"
    return str((state.get("Health") or {}).get("Status", "starting"))


def problem(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a container and what to do; None if nothing is."""
    name, status = record["name"], record["status"]
    if status == "missing":
        return f"container {name} does not exist; converge the grid"
    if status != "running":
        return f"container {name} is {status}; converge the grid, and see docker logs {name}"
    if record["health"] == "unhealthy":
        return f"container {name} does not pass its health check; see docker logs {name}"
    if record["health"] == "starting":
        return f"container {name} does not pass its health check yet; look again in a moment"
    return None


def health_test(inspected: Mapping[str, Any]) -> list[str]:
    """The check as an argument vector; empty if there is none."""
    kind, *argv = (inspected["Config"].get("Healthcheck") or {}).get("Test") or ["NONE"]
    if kind == "CMD":
        return list(argv)
    return ["/bin/sh", "-c", argv[0]] if kind == "CMD-SHELL" else []


def health_timeout(inspected: Mapping[str, Any]) -> float:
    """Seconds that one run of the check may take; Docker's own default is 30."""
    return float(((inspected["Config"].get("Healthcheck") or {}).get("Timeout") or 0) / 1e9) or 30.0


def _ports(inspected: Mapping[str, Any]) -> str:
    published = []
    for inner, bindings in sorted((inspected["HostConfig"].get("PortBindings") or {}).items()):
        port = inner[: -len("/tcp")] if inner.endswith("/tcp") else inner
        published += [f"{b.get('HostIp') or '0.0.0.0'}:{b['HostPort']}->{port}" for b in bindings or ()]
    return ", ".join(published)
