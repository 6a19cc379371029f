# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker daemon. The only file of the collection's grid modules that talks to it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.utils
import requests
from ansible_collections.synergos.grid.plugins.module_utils._address import Network
from ansible_collections.synergos.grid.plugins.module_utils._desired import GRID_LABEL
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._plan import Snapshot, grid_of, summary_name
from ansible_collections.synergos.grid.plugins.module_utils._status import health_test, health_timeout

T = TypeVar("T")

CALL_TIMEOUT = 120  # seconds; creating a container on a busy disk can take long
READERS = 8


class Unreachable(GridError):
    """Docker does not answer."""


class DaemonError(GridError):
    """Docker refused; the text is its own message."""


class Missing(DaemonError):
    """Docker does not know the object."""


class CommandTimeout(GridError):
    """A command in a container did not end in time."""


@dataclass(frozen=True)
class Result:
    rc: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return "\n".join(text for text in (self.stdout.strip(), self.stderr.strip()) if text)


class Engine:
    def __init__(self, docker_host: str | None = None) -> None:
        settings = docker.utils.kwargs_from_env()
        if docker_host:
            settings["base_url"] = docker_host
        try:
            self._api = docker.APIClient(version="auto", timeout=CALL_TIMEOUT, max_pool_size=64, **settings)
        except docker.errors.DockerException as error:
            where = settings.get("base_url", "its usual socket")
            raise Unreachable(
                f"Docker does not answer at {where} ({_root(error)}); start it (role engine), or correct docker_host, "
                "and see that this user may use it"
            ) from error
        major, _dot, minor = self._api.api_version.partition(".")
        self.api_version = (int(major), int(minor))

    # Reading

    def snapshot(self, grid: str, names: Iterable[str] = (), references: Iterable[str] = ()) -> Snapshot:
        """Read everything once: the lists, and in detail this grid's containers and the images named.

        `names` are containers to inspect too, whoever made them.
        """
        wanted = set(names)
        with ThreadPoolExecutor(READERS) as pool:
            containers = pool.submit(_call, self._api.containers, all=True)
            networks = pool.submit(_call, self._api.networks)
            volumes = pool.submit(_call, self._api.volumes)
            images = {name: pool.submit(self.image, name) for name in dict.fromkeys(references)}
            found = containers.result()
            inspected = {
                summary_name(summary): pool.submit(self.inspect, summary["Id"])
                for summary in found
                if grid_of(summary) == grid or summary_name(summary) in wanted
            }
            return Snapshot(
                containers=found,
                inspected={name: reply for name, future in inspected.items() if (reply := future.result())},
                networks=networks.result(),
                volumes=volumes.result().get("Volumes") or [],
                images={name: future.result() for name, future in images.items()},
                api_version=self.api_version,
            )

    def settle(self, there: Snapshot, healths: Collection[str], parallel: int) -> None:
        """Run the check of each inspected container whose health is one of `healths`; if it passes, note it as healthy.

        Docker runs a check at long intervals only: a container counts as `starting` long after it has answered, and as
        `unhealthy` for a while after it has recovered.
        """

        def check(inspected: dict[str, Any]) -> None:
            with contextlib.suppress(GridError):
                if self.run(inspected["Id"], health_test(inspected), health_timeout(inspected)).rc == 0:
                    inspected["State"]["Health"]["Status"] = "healthy"

        unsettled = [
            inspected
            for inspected in there.inspected.values()
            if inspected["State"]["Status"] == "running"
            and (inspected["State"].get("Health") or {}).get("Status") in healths
            and health_test(inspected)
        ]
        if unsettled:
            with ThreadPoolExecutor(parallel) as pool:
                list(pool.map(check, unsettled))

    def inspect(self, name: str) -> dict[str, Any] | None:
        return _or_none(self._api.inspect_container, name)

    def image(self, reference: str) -> dict[str, Any] | None:
        return _or_none(self._api.inspect_image, reference)

    def network_id(self, name: str) -> str | None:
        return next((n["Id"] for n in _call(self._api.networks, names=[name]) if n["Name"] == name), None)

    def log_tail(self, name: str, lines: int) -> str:
        log: Any = _call(self._api.logs, name, tail=lines)
        return str(log.decode(errors="replace"))

    def written(self, name: str) -> tuple[str, str]:
        """All that a container wrote to stdout and to stderr."""
        out: Any = _call(self._api.logs, name, stdout=True, stderr=False)
        err: Any = _call(self._api.logs, name, stdout=False, stderr=True)
        return out.decode(errors="replace"), err.decode(errors="replace")

    # Containers

    def create(self, name: str | None, body: Mapping[str, Any]) -> str:
        return str(_call(self._api.create_container_from_config, dict(body), name)["Id"])

    def start(self, name: str) -> None:
        _call(self._api.start, name)

    def stop(self, name: str, grace: int | None) -> None:
        """Ask the container to end; Docker kills it after `grace` seconds (None: Docker's own default)."""
        _call(self._api.stop, name, timeout=grace)

    def unpause(self, name: str) -> None:
        _call(self._api.unpause, name)

    def remove(self, name: str) -> None:
        """Stop a container with its own grace, then remove it; one that is gone already is fine."""
        with _gone_is_fine():
            inspected = self.inspect(name)
            if inspected and inspected["State"]["Paused"]:
                self.unpause(name)
            if inspected and inspected["State"]["Running"]:
                self.stop(name, inspected["Config"].get("StopTimeout"))
            _call(self._api.remove_container, name, force=True, v=True)

    def kill(self, name: str) -> None:
        """Remove a container at once."""
        with _gone_is_fine():
            _call(self._api.remove_container, name, force=True, v=True)

    def update(self, name: str, limits: Mapping[str, Any]) -> None:
        # The SDK's own call knows neither NanoCpus nor PidsLimit.
        _call(self._post, f"/containers/{name}/update", limits)

    def wait(self, name: str, timeout: int) -> int:
        """Exit code of a container, once it ends."""
        try:
            return int(self._api.wait(name, timeout=timeout)["StatusCode"])
        except docker.errors.APIError as error:
            raise DaemonError(error.explanation or str(error)) from error
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
            raise CommandTimeout(f"it did not end within {timeout:g} s") from error

    def run(
        self,
        name: str,
        argv: Iterable[str],
        timeout: float,
        user: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Result:
        """Run a command in a running container."""
        command = _call(
            self._api.exec_create, name, list(argv), user=user, environment=dict(environment) if environment else None
        )["Id"]
        # The SDK's exec_start waits for output for ever; a plain request has a time limit.
        end = time.monotonic() + timeout
        raw = bytearray()
        try:
            response = self._post(
                f"/exec/{command}/start", {"Detach": False, "Tty": False}, timeout=timeout, stream=True
            )
            with response:
                for chunk in response.iter_content(65536):
                    raw += chunk
                    if time.monotonic() > end:
                        raise requests.exceptions.Timeout
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
            raise CommandTimeout(f"it did not end within {timeout:g} s") from error
        except DaemonError as error:  # such as a program that the image does not have
            return Result(126, "", str(error))
        stdout, stderr = demultiplex(bytes(raw))
        return Result(self._exit_code(command), stdout, stderr)

    def _exit_code(self, command: str) -> int:
        for _attempt in range(50):
            code = _call(self._api.exec_inspect, command)["ExitCode"]
            if code is not None:
                return int(code)
            time.sleep(0.02)  # the output can end just before the code is known
        raise CommandTimeout("it closed its output but did not end")

    # Networks and volumes

    def create_network(self, network: Network, grid: str) -> str:
        pool = docker.types.IPAMPool(
            subnet=str(network.subnet), gateway=str(network.gateway), iprange=str(network.dynamic)
        )
        reply = _call(
            self._api.create_network,
            network.name,
            driver="bridge",
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            check_duplicate=True,
            internal=network.internal,
            # Of no use where nothing is routed, and it would open the network to every user of the engine's machine.
            options={"com.docker.network.bridge.inhibit_ipv4": "true"} if network.internal else None,
            labels={GRID_LABEL: grid},
        )
        return str(reply["Id"])

    def remove_network(self, name: str) -> None:
        with _gone_is_fine():
            _call(self._api.remove_network, name)

    def connect(self, container: str, network: str, endpoint: Mapping[str, Any]) -> None:
        """Connect a container; `endpoint` is what a create body says of the network."""
        _call(
            self._api.connect_container_to_network,
            container,
            network,
            ipv4_address=endpoint["IPAMConfig"]["IPv4Address"],
            aliases=endpoint["Aliases"] or None,
        )

    def disconnect(self, container: str, network: str) -> None:
        _call(self._api.disconnect_container_from_network, container, network, force=True)

    def create_volume(self, name: str, grid: str, owner: tuple[int, int] | None) -> None:
        """Make a named volume; its root gets `owner`."""
        folder = _call(self._api.create_volume, name, labels={GRID_LABEL: grid})["Mountpoint"]
        if owner is None:
            return
        try:
            os.chown(Path(folder), *owner)
        except OSError as error:
            self.remove_volume(name)  # kept, it would look finished to the next run
            raise GridError(
                f"volume {name}: its folder {folder} cannot be given to {owner[0]}:{owner[1]} ({error.strerror}); "
                "run with become on the engine's own machine, or leave `owner` out"
            ) from error

    def remove_volume(self, name: str) -> None:
        with _gone_is_fine():
            _call(self._api.remove_volume, name)

    def _post(self, path: str, body: Mapping[str, Any], **options: Any) -> requests.Response:
        options.setdefault("timeout", CALL_TIMEOUT)
        response: requests.Response = self._api.post(
            f"{self._api.base_url}/v{self._api.api_version}{path}", json=dict(body), **options
        )
        if response.status_code >= 400:
            raise DaemonError(_message(response))
        return response


def demultiplex(raw: bytes) -> tuple[str, str]:
    """Split Docker's stream of frames (stream number, three zeros, length, data) into stdout and stderr."""
    parts = {1: bytearray(), 2: bytearray()}
    position = 0
    while position + 8 <= len(raw):
        length = int.from_bytes(raw[position + 4 : position + 8], "big")
        parts.get(raw[position], parts[1]).extend(raw[position + 8 : position + 8 + length])
        position += 8 + length
    return parts[1].decode(errors="replace"), parts[2].decode(errors="replace")


def _call(method: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    try:
        return method(*args, **kwargs)
    except docker.errors.NotFound as error:
        raise Missing(error.explanation or str(error)) from error
    except docker.errors.APIError as error:
        raise DaemonError(error.explanation or str(error)) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise DaemonError(f"Docker stopped answering ({_root(error)})") from error


def _or_none(method: Callable[..., T], *args: Any) -> T | None:
    try:
        return _call(method, *args)
    except Missing:
        return None


def _gone_is_fine() -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(Missing)


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError):
        return response.text.strip()


def _root(error: BaseException) -> str:
    """The innermost cause, which says what happened in the fewest words."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)
