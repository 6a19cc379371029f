# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between a container or network as it should be and as Docker shows it, property by property."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._address import Network
from ansible_collections.synergos.grid.plugins.module_utils._desired import GRID_LABEL, split_environment

# What `docker update` can set and no definition sets: any value but the engine's default was put there by hand.
UNSET_LIMITS = ("CpuShares", "CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "MemoryReservation", "BlkioWeight")
# What only a container made by hand can have.
UNSET_HOST_CONFIG = (
    "Privileged",
    "Binds",
    "Devices",
    "DeviceRequests",
    "ExtraHosts",
    "GroupAdd",
    "PidMode",
    "VolumesFrom",
)


@dataclass(frozen=True)
class Difference:
    """`repair` is the least that helps: recreate, update (in place), connect, disconnect, unpause, start, restart.

    `network` says to which network, or from which.
    """

    property: str
    current: Any
    desired: Any
    repair: str
    network: str = ""

    def reason(self) -> dict[str, Any]:
        return {"property": self.property, "current": self.current, "desired": self.desired}


def compare_container(
    body: Mapping[str, Any],
    inspected: Mapping[str, Any],
    image: Mapping[str, Any] | None,
    network_ids: Mapping[str, str | None],
) -> list[Difference]:
    """Compare a create body with `docker inspect`.

    `image` is the inspected image that the body names, None if the engine does not have it (yet); `network_ids` are the
    ids of the body's networks, None for one that does not exist or will be made anew.
    """
    found = []
    if image is None or inspected["Image"] != image["Id"]:
        desired = body["Image"] if image is None else f"{body['Image']} ({_short(image['Id'])})"
        found.append(
            Difference("image", f"{inspected['Config']['Image']} ({_short(inspected['Image'])})", desired, "recreate")
        )
    for name, current, desired in _settings(body, inspected, (image or {}).get("Config") or {}, image is None):
        if current != desired:
            found.append(Difference(name, current, desired, "recreate"))
    found.extend(_limits(body["HostConfig"], inspected["HostConfig"]))
    found.extend(_attachments(body, inspected, network_ids))
    found.extend(_run_state(inspected["State"]))
    return found


def compare_network(network: Network, grid: str, inspected: Mapping[str, Any]) -> list[Difference]:
    found = []
    config = (inspected.get("IPAM") or {}).get("Config") or [{}]
    desired = {
        "driver": "bridge",
        "subnet": str(network.subnet),
        "gateway": str(network.gateway),
        "ip_range": str(network.dynamic),
        "internal": network.internal,
        "grid": grid,
    }
    current = {
        "driver": inspected["Driver"],
        "subnet": _canonical(config[0].get("Subnet")),
        "gateway": config[0].get("Gateway"),
        "ip_range": _canonical(config[0].get("IPRange")),
        "internal": bool(inspected.get("Internal")),
        "grid": (inspected.get("Labels") or {}).get(GRID_LABEL),
    }
    for name, value in desired.items():
        if current[name] != value:
            found.append(Difference(name, current[name], value, "recreate"))
    return found


def _settings(
    body: Mapping[str, Any], inspected: Mapping[str, Any], image: Mapping[str, Any], image_unknown: bool
) -> Iterator[tuple[str, Any, Any]]:
    """Name, current and desired value of everything that only a new container can change."""
    config, host, wanted_host = inspected["Config"], inspected["HostConfig"], body["HostConfig"]

    # Docker fills these from the image. With the image unknown nothing can be said, and the image differs anyway.
    if not image_unknown:
        entrypoint = body.get("Entrypoint")
        command = body.get("Cmd")
        if command is None and entrypoint is None:
            command = image.get("Cmd")
        yield "command", config.get("Cmd") or [], command or []
        yield "entrypoint", config.get("Entrypoint") or [], entrypoint or image.get("Entrypoint") or []
        yield "user", config.get("User") or "", body.get("User") or image.get("User") or ""
        yield "health", _health(config), _health(body if body.get("Healthcheck") else image)
        yield "stop_signal", config.get("StopSignal") or "SIGTERM", _stop_signal(body, image)
        current_env, image_env = split_environment(config.get("Env")), split_environment(image.get("Env"))
        desired_env = {**image_env, **split_environment(body["Env"])}
        for name in sorted({*current_env, *desired_env}):
            yield f"environment.{name}", current_env.get(name), desired_env.get(name)
        labels, image_labels = config.get("Labels") or {}, image.get("Labels") or {}
        desired_labels = {**image_labels, **body["Labels"]}
        for name in sorted({*labels, *desired_labels}):
            yield f"labels.{name}", labels.get(name), desired_labels.get(name)

    yield "hostname", config.get("Hostname"), body["Hostname"]
    yield "stop_timeout", config.get("StopTimeout"), body.get("StopTimeout")
    yield "network", host["NetworkMode"], wanted_host["NetworkMode"]
    yield "ports", _ports(host.get("PortBindings")), _ports(wanted_host["PortBindings"])
    yield "mounts", _mounts(host.get("Mounts")), _mounts(wanted_host["Mounts"])
    yield "shm", host.get("ShmSize"), wanted_host["ShmSize"]
    yield "read_only", bool(host.get("ReadonlyRootfs")), wanted_host["ReadonlyRootfs"]
    yield "tmpfs", host.get("Tmpfs") or {}, wanted_host["Tmpfs"]
    yield "cap_add", _capabilities(host.get("CapAdd")), _capabilities(wanted_host["CapAdd"])
    yield "cap_drop", _capabilities(host.get("CapDrop")), _capabilities(wanted_host["CapDrop"])
    yield "security_opt", sorted(host.get("SecurityOpt") or []), sorted(wanted_host["SecurityOpt"])
    yield "ulimits", _ulimits(host.get("Ulimits")), _ulimits(wanted_host["Ulimits"])
    for key in UNSET_HOST_CONFIG:
        yield key, host.get(key) or None, None


def _limits(desired: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[Difference]:
    """What `docker update` can change in place, unless a limit is to be lifted: there 0 means "as it is"."""
    for name, key in (("memory", "Memory"), ("cpus", "NanoCpus"), ("pids", "PidsLimit")):
        is_now = max(current.get(key) or 0, 0)  # no limit is null, 0 or -1
        if is_now != desired[key]:
            yield Difference(name, is_now, desired[key], "update" if desired[key] else "recreate")
    for key in UNSET_LIMITS:
        if current.get(key):
            yield Difference(key, current[key], None, "recreate")
    is_now, should_be = (
        (policy.get("Name") or "no", policy.get("MaximumRetryCount") or 0)
        for policy in (current.get("RestartPolicy") or {}, desired["RestartPolicy"])
    )
    if is_now != should_be:
        yield Difference("restart", _restart(is_now), _restart(should_be), "update")


def _attachments(
    body: Mapping[str, Any], inspected: Mapping[str, Any], network_ids: Mapping[str, str | None]
) -> Iterator[Difference]:
    attached = inspected["NetworkSettings"].get("Networks") or {}
    if inspected["HostConfig"]["NetworkMode"] != body["HostConfig"]["NetworkMode"]:
        return  # a new container will be attached to the right network only
    main, endpoints = body["HostConfig"]["NetworkMode"], body["NetworkingConfig"]["EndpointsConfig"]
    # Docker adds the short id, the host name and, in some versions, the name.
    own = {inspected["Id"][:12], inspected["Name"].lstrip("/"), inspected["Config"]["Hostname"]}
    for name, wanted in endpoints.items():
        endpoint = attached.get(name)
        address = wanted["IPAMConfig"]["IPv4Address"]
        prefix = "" if name == main else f"networks.{name}."
        if endpoint is None:
            yield Difference(f"networks.{name}", None, address, "connect", name)
        # A stopped container that was never started has no network id yet.
        elif network_ids[name] is None or endpoint.get("NetworkID") not in (network_ids[name], "", None):
            yield Difference(f"networks.{name}", "another network of this name", address, "recreate")
        else:
            current = (endpoint.get("IPAMConfig") or {}).get("IPv4Address")
            if current != address:
                yield Difference(
                    f"{prefix}address", current or endpoint.get("IPAddress") or None, address, "connect", name
                )
            aliases = sorted(set(endpoint.get("Aliases") or ()) - own)
            if aliases != sorted(set(wanted["Aliases"]) - own):
                yield Difference(f"{prefix}aliases", aliases, sorted(wanted["Aliases"]), "connect", name)
    for other in sorted(set(attached) - set(endpoints)):
        yield Difference(f"networks.{other}", "connected", None, "disconnect", other)


def _run_state(state: Mapping[str, Any]) -> Iterator[Difference]:
    status = state["Status"]
    if status == "paused":
        yield Difference("state", "paused", "running", "unpause")
    elif status in ("created", "exited"):
        current = status if status == "created" else f"exited ({state.get('ExitCode')})"
        yield Difference("state", current, "running", "start")
    elif status not in ("running", "restarting"):
        yield Difference("state", status, "running", "recreate")
    elif (state.get("Health") or {}).get("Status") == "unhealthy":
        yield Difference("state", "unhealthy", "healthy", "restart")


def _health(config: Mapping[str, Any]) -> dict[str, Any]:
    check = config.get("Healthcheck") or {}
    return {key: value for key, value in check.items() if value}


def _stop_signal(body: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    return body.get("StopSignal") or image.get("StopSignal") or "SIGTERM"


def _ports(bindings: Mapping[str, Any] | None) -> list[str]:
    return sorted(
        f"{binding.get('HostIp') or '0.0.0.0'}:{binding['HostPort']}->{inner}"
        for inner, bound in (bindings or {}).items()
        for binding in bound or ()
    )


def _mounts(mounts: list[Mapping[str, Any]] | None) -> list[str]:
    return sorted(
        f"{mount['Type']} {mount['Source']} on {mount['Target']} {'ro' if mount.get('ReadOnly') else 'rw'}"
        for mount in mounts or ()
    )


def _capabilities(names: list[str] | None) -> list[str]:
    upper = (name.upper() for name in names or ())
    return sorted(name[4:] if name.startswith("CAP_") else name for name in upper)


def _ulimits(limits: list[Mapping[str, Any]] | None) -> list[str]:
    return sorted(f"{limit['Name']}={limit['Soft']}:{limit['Hard']}" for limit in limits or ())


def _restart(policy: tuple[str, int]) -> str:
    return f"{policy[0]}:{policy[1]}" if policy[1] else policy[0]


def _canonical(network: str | None) -> str | None:
    return str(ipaddress.ip_network(network)) if network else None


def _short(image_id: str) -> str:
    return image_id.rpartition(":")[2][:12]
