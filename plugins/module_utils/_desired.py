# SPDX-License-Identifier: GPL-3.0-or-later
"""From a definition to the body that Docker's create call takes. Pure: the same input gives the same body."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._definition import Container, Volume

GRID_LABEL = "org.synergos.grid"
COMPONENT_LABEL = "org.synergos.component"
RESET_LABEL = "org.synergos.reset"
COMMAND_LABEL = "org.synergos.command"  # one-shot containers; the value is the grid, if they belong to one

SHM_DEFAULT = 64 << 20
START_INTERVAL_API = (1, 44)


def create_body(
    container: Container,
    grid: str,
    network: str,
    image: str,
    mounts: list[dict[str, Any]],
    api_version: tuple[int, int],
) -> dict[str, Any]:
    """Return the body of `POST /containers/create` for a definition.

    `image` is the full reference and `mounts` are the mounts in Docker's own form (see `bind` and `volume`).
    """
    resources = container.resources
    labels = {
        **container.labels,
        GRID_LABEL: grid,
        COMPONENT_LABEL: container.component,
        **({RESET_LABEL: json.dumps(container.reset)} if container.reset else {}),
    }
    retries = container.restart.partition(":")[2]
    body: dict[str, Any] = {
        "Image": image,
        "Hostname": container.hostname,
        "Env": [f"{key}={value}" for key, value in sorted(container.environment.items())],
        "Labels": labels,
        "ExposedPorts": {f"{port.container}/{port.protocol}": {} for port in container.ports},
        "HostConfig": {
            "NetworkMode": network,
            "Mounts": mounts,
            "PortBindings": _port_bindings(container),
            "RestartPolicy": {
                "Name": container.restart.partition(":")[0],
                "MaximumRetryCount": int(retries) if retries else 0,
            },
            "Memory": resources.memory,
            "NanoCpus": round(resources.cpus * 1e9),
            "PidsLimit": resources.pids,
            # Given even where it is the default, so that dropping `shm` from a definition shows as a difference.
            "ShmSize": resources.shm or SHM_DEFAULT,
            "ReadonlyRootfs": container.read_only,
            "Tmpfs": dict(container.tmpfs),
            "CapAdd": list(container.cap_add),
            "CapDrop": list(container.cap_drop),
            "SecurityOpt": list(container.security_opt),
            "Ulimits": [{"Name": name, "Soft": n, "Hard": n} for name, n in sorted(container.ulimits.items())],
        },
        "NetworkingConfig": {"EndpointsConfig": endpoints(container, network)},
    }
    if container.command is not None:
        body["Cmd"] = list(container.command)
    if container.entrypoint is not None:
        body["Entrypoint"] = list(container.entrypoint)
    if container.user:
        body["User"] = container.user
    if container.stop_signal:
        body["StopSignal"] = container.stop_signal
    if container.stop_timeout is not None:
        body["StopTimeout"] = container.stop_timeout
    if container.health:
        health = container.health
        body["Healthcheck"] = {
            "Test": ["CMD", *health.test],
            "Interval": nanoseconds(health.interval),
            "Timeout": nanoseconds(health.timeout),
            "Retries": health.retries,
            "StartPeriod": nanoseconds(health.start_period),
        }
        if health.start_interval and api_version >= START_INTERVAL_API:
            body["Healthcheck"]["StartInterval"] = nanoseconds(health.start_interval)
    return body


def endpoints(container: Container, network: str) -> dict[str, dict[str, Any]]:
    """What Docker is told of each network that the container is on, `network` first."""
    found = {network: (container.address, container.aliases)}
    found.update({further.name: (further.address, further.aliases) for further in container.networks})
    return {
        name: {"IPAMConfig": {"IPv4Address": address}, "Aliases": list(aliases)}
        for name, (address, aliases) in found.items()
    }


def bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def volume(mount: Volume) -> dict[str, Any]:
    named: dict[str, Any] = {
        "Type": "volume",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
    }
    if mount.owner:
        # Otherwise Docker copies the image's folder, and with it that folder's owner, over the fresh volume.
        named["VolumeOptions"] = {"NoCopy": True}
    return named


def nanoseconds(seconds: float | None) -> int:
    return round((seconds or 0) * 1e9)


def split_environment(variables: Iterable[str] | None) -> dict[str, str]:
    """`NAME=value` texts as a mapping."""
    pairs = (item.partition("=") for item in variables or ())
    return {name: value for name, _sep, value in pairs}


def _port_bindings(container: Container) -> Mapping[str, list[dict[str, str]]]:
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in container.ports:
        binding = {"HostIp": port.address, "HostPort": str(port.host)}
        bindings.setdefault(f"{port.container}/{port.protocol}", []).append(binding)
    return bindings
