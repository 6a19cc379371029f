# SPDX-License-Identifier: GPL-3.0-or-later
"""From the desired state and what is there to the list of things to do, or to every reason why nothing may be done.

Pure: what it needs to know of the machine is handed in.
"""

from __future__ import annotations

import graphlib
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._address import Network, check_addresses, members
from ansible_collections.synergos.grid.plugins.module_utils._compare import (
    Difference,
    compare_container,
    compare_network,
)
from ansible_collections.synergos.grid.plugins.module_utils._definition import Container, File, Port, Volume
from ansible_collections.synergos.grid.plugins.module_utils._desired import GRID_LABEL, bind, create_body, volume
from ansible_collections.synergos.grid.plugins.module_utils._host import Route
from ansible_collections.synergos.grid.plugins.module_utils._state import StoredFile

# A container's action is named after the strongest of its repairs.
STRENGTH = ("create", "recreate", "restart", "start", "unpause", "connect", "disconnect", "update")
WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class Request:
    grid: str
    network: Network
    containers: Sequence[Container]
    images: Mapping[str, str]
    complete: bool
    check_mode: bool
    further: Sequence[Network] = ()

    @property
    def networks(self) -> list[Network]:
        return [self.network, *self.further]

    def reference(self, container: Container) -> str:
        return self.images.get(container.image, container.image)


@dataclass
class Snapshot:
    """What Docker holds: its list replies, and the inspect replies of this grid's containers and of wanted images.

    `unreachable` says why Docker did not answer; everything is empty then.
    """

    containers: list[dict[str, Any]] = field(default_factory=list)
    inspected: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    api_version: tuple[int, int] = (0, 0)
    unreachable: str | None = None


@dataclass
class Machine:
    """What the engine's machine holds beside Docker."""

    files: Mapping[str, StoredFile]
    path_of: Callable[[str, File], str]
    missing: Callable[[str], bool]
    expand: Callable[[str, str], Sequence[str]]
    routes: Sequence[Route]
    addresses: Sequence[ipaddress.IPv4Address]
    why_unusable: Callable[[str, int, str], str | None]


@dataclass
class Step:
    """One thing to do. `repairs` is for containers; empty with `wait` set: only wait until it is healthy.

    `connect` and `disconnect` are the networks that the repairs of these names are about.
    """

    kind: str
    name: str
    action: str
    reasons: list[dict[str, Any]]
    repairs: frozenset[str] = frozenset()
    wait: bool = False
    container: Container | None = None
    connect: tuple[str, ...] = ()
    disconnect: tuple[str, ...] = ()
    body: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "action": self.action, "reasons": self.reasons}


@dataclass
class Plan:
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    removals: list[Step] = field(default_factory=list)  # containers that left the grid
    networks: list[Step] = field(default_factory=list)
    volumes: dict[str, tuple[int, int] | None] = field(default_factory=dict)  # to create, with their owners
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)  # to create, with their owners
    writes: dict[str, File] = field(default_factory=dict)
    file_steps: list[Step] = field(default_factory=list)
    containers: list[Step] = field(default_factory=list)  # in dependency order
    images: list[Step] = field(default_factory=list)  # only in check mode

    def steps(self) -> list[Step]:
        """Everything that changes something."""
        state = [{"property": "state", "current": "absent", "desired": "present"}]
        return [
            *self.images,
            *self.removals,
            *self.networks,
            *(Step("volume", name, "create", state) for name in self.volumes),
            *(Step("folder", path, "create", state) for path in self.folders),
            *self.file_steps,
            *(step for step in self.containers if step.action != "wait"),
        ]


def summary_name(summary: Mapping[str, Any]) -> str:
    # Links add names with a second slash.
    return str(next((name[1:] for name in summary["Names"] if name.count("/") == 1), summary["Id"][:12]))


def grid_of(thing: Mapping[str, Any]) -> str | None:
    """The grid that a container, network or volume of a Docker list reply belongs to."""
    return (thing.get("Labels") or {}).get(GRID_LABEL)


def attached(there: Snapshot, network: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Containers on a network, running or not, with their endpoints."""
    found = []
    for summary in there.containers:
        for name, endpoint in ((summary.get("NetworkSettings") or {}).get("Networks") or {}).items():
            if endpoint.get("NetworkID") == network["Id"] or (
                not endpoint.get("NetworkID") and name == network["Name"]
            ):
                found.append((summary_name(summary), endpoint))
    return found


def make_plan(request: Request, there: Snapshot, machine: Machine) -> Plan:
    plan = Plan()
    planner = _Planner(request, there, machine, plan)
    for network in request.networks:
        plan.problems += check_addresses(planner.members(network), network)
    order = planner.order()
    planner.holders()
    network_ids = planner.networks()
    planner.ports()
    planner.storage()
    planner.files()
    planner.removals()
    for container in order:
        planner.container(container, network_ids)
    return plan


class _Planner:
    def __init__(self, request: Request, there: Snapshot, machine: Machine, plan: Plan) -> None:
        self.request = request
        self.there = there
        self.machine = machine
        self.plan = plan
        self.desired = {container.name: container for container in request.containers}
        self.own = {summary_name(c): c for c in there.containers if grid_of(c) == request.grid}
        self.leaving = {name for name in self.own if name not in self.desired} if request.complete else set()

    def order(self) -> list[Container]:
        """Containers so that each comes after those it depends on."""
        known = {*self.desired, *(set(self.own) - self.leaving)}
        for container in self.request.containers:
            for name in container.depends_on:
                if name not in known:
                    self.problem(
                        f"container {container.name}: depends_on names {name}, which is no container of this grid "
                        f"on this engine; known are {', '.join(sorted(known))}"
                    )
        graph = {c.name: [d for d in c.depends_on if d in self.desired] for c in self.request.containers}
        try:
            return [self.desired[name] for name in graphlib.TopologicalSorter(graph).static_order()]
        except graphlib.CycleError as error:
            self.problem(
                f"containers depend on each other in a circle: {' -> '.join(reversed(error.args[1]))}; remove one "
                "depends_on"
            )
            return list(self.request.containers)

    def holders(self) -> None:
        """Names that others have taken."""
        for summary in self.there.containers:
            name = summary_name(summary)
            if name in self.desired and name not in self.own:
                self.problem(
                    f"container {name}: the name is taken by a container {self.belongs(summary)} (image "
                    f"{summary['Image']}, "
                    f"{summary.get('Status') or summary['State']}); remove or rename it yourself (docker rename "
                    f"{name} …), or give this one another name"
                )
        for name in sorted({v.source for c in self.desired.values() for v in c.volumes if v.type == "volume"}):
            for existing in self.there.volumes:
                if existing["Name"] == name and grid_of(existing) != self.request.grid:
                    self.problem(
                        f"volume {name}: the name is taken by a volume {self.belongs(existing)}; remove it yourself "
                        "(docker volume rm) if its data is not needed, or use another name"
                    )

    def networks(self) -> dict[str, str | None]:
        """Plan the networks; return by name the id of each that is there and stays."""
        wanted = {network.name for network in self.request.networks}
        for network in self.there.networks:
            if grid_of(network) == self.request.grid and network["Name"] not in wanted and self.request.complete:
                self.release(network, "it is no longer this grid's network")
                self.plan.networks.append(_removal("network", network["Name"], "present"))
        return {network.name: self.network(network) for network in self.request.networks}

    def members(self, network: Network) -> list[tuple[str, str]]:
        return members(self.request.containers, network.name, self.request.network.name)

    def network(self, wanted: Network) -> str | None:
        """Plan one network; return its id if it is there and stays."""
        same_name = [network for network in self.there.networks if network["Name"] == wanted.name]
        if len(same_name) > 1:
            self.problem(
                f"network {wanted.name}: {len(same_name)} networks have this name; remove all but one (docker "
                "network rm ID)"
            )
            return None
        if not same_name:
            self.subnet(wanted, None)
            reasons = [{"property": "subnet", "current": None, "desired": str(wanted.subnet)}]
            self.plan.networks.append(Step("network", wanted.name, "create", reasons))
            return None
        network = same_name[0]
        if grid_of(network) != self.request.grid:
            self.problem(
                f"network {wanted.name}: the name is taken by a network {self.belongs(network)} "
                f"({', '.join(_subnets(network))}); remove it yourself (docker network rm {wanted.name}), or use "
                "another name"
            )
            return None
        for name, endpoint in attached(self.there, network):
            for member, address in self.members(wanted):
                if name not in self.desired and name not in self.leaving and endpoint["IPAddress"] == address:
                    self.problem(
                        f"container {member}: address {address} is held by container {name}; "
                        f"disconnect that one (docker network disconnect {wanted.name} {name}) or use another address"
                    )
        differences = compare_network(wanted, self.request.grid, network)
        if not differences:
            return str(network["Id"])
        self.subnet(wanted, network)
        self.release(network, "it must be made anew (" + ", ".join(d.property for d in differences) + ")")
        reasons = [difference.reason() for difference in differences]
        self.plan.networks.append(Step("network", wanted.name, "recreate", reasons))
        return None

    def subnet(self, wanted: Network, own: Mapping[str, Any] | None) -> None:
        """Who else uses the addresses of a network that is to be made."""
        remedy = "remove the holder, or set another subnet for this grid"
        docker_ranges = []
        bridges = set()
        for network in self.there.networks:
            bridges.add(
                (network.get("Options") or {}).get("com.docker.network.bridge.name", f"br-{network['Id'][:12]}")
            )
            ranges = [ipaddress.IPv4Network(text, strict=False) for text in _subnets(network)]
            docker_ranges += ranges
            mine = grid_of(network) == self.request.grid and (network is own or self.request.complete)
            for taken in ranges:
                if taken.overlaps(wanted.subnet) and not mine:
                    self.problem(
                        f"network {wanted.name}: subnet {wanted.subnet} overlaps {taken} of Docker network "
                        f"{network['Name']} ({self.belongs(network)}); {remedy}"
                    )
        routes = [
            route
            for route in self.machine.routes
            if route.interface not in bridges and route.network.overlaps(wanted.subnet)
        ]
        for route in routes:
            self.held(
                f"network {wanted.name}: subnet {wanted.subnet} overlaps {route.network}, which this machine reaches "
                f"through {route.interface}; {remedy}"
            )
        for address in self.machine.addresses if not routes else ():
            if address in wanted.subnet and not any(address in taken for taken in docker_ranges):
                self.held(
                    f"network {wanted.name}: subnet {wanted.subnet} holds {address}, an address of this machine; "
                    f"{remedy}"
                )

    def held(self, text: str) -> None:
        # A daemon that was killed leaves bridges and proxies behind, and cannot say whose they are.
        (self.plan.warnings if self.there.unreachable else self.plan.problems).append(text)

    def ports(self) -> None:
        claimed: list[tuple[str, Port]] = []
        for container in self.request.containers:
            for port in container.ports:
                where = f"container {container.name}: port {port.address}:{port.host}/{port.protocol}"
                for name, other in claimed:
                    if name != container.name and _clash(port, other.address, other.host, other.protocol):
                        self.problem(
                            f"{where} is also published by container {name}; give one of them another host port"
                        )
                claimed.append((container.name, port))
                holder = self.publisher(port)
                if holder is None:
                    reason = self.machine.why_unusable(port.address, port.host, port.protocol)
                    if reason:
                        self.held(f"{where} {reason}; stop the holder, or use another host port or address")
                elif holder not in self.desired and holder not in self.leaving:
                    self.problem(
                        f"{where} is published by container {holder} ({self.belongs(self.summary(holder))}); "
                        "stop that one, or use another host port"
                    )

    def storage(self) -> None:
        owners: dict[str, str] = {}
        for mount in (mount for container in self.request.containers for mount in container.volumes):
            if mount.type == "bind" and mount.owner and not mount.match and self.machine.missing(mount.source):
                self.plan.folders.setdefault(mount.source, mount.owner)
        for container in self.request.containers:
            for mount in container.volumes:
                where = f"container {container.name}: volume {mount.target}"
                if mount.type == "volume":
                    self.named_volume(mount, where, owners)
                elif mount.match is not None:
                    if not self.machine.expand(mount.source, mount.match):
                        self.absent_source(
                            f"{where}: no folder of the engine matches {mount.source}/{mount.match}; make it, or "
                            "correct the pattern"
                        )
                elif mount.source not in self.plan.folders and self.machine.missing(mount.source):
                    self.absent_source(
                        f"{where}: the engine has no folder {mount.source}; make it, or give `owner` to have it made"
                    )

    def named_volume(self, mount: Volume, where: str, owners: dict[str, str]) -> None:
        owner = mount.owner and "{}:{}".format(*mount.owner)
        if owner and owners.setdefault(mount.source, owner) != owner:
            self.problem(f"{where}: {mount.source} has two owners, {owners[mount.source]} and {owner}; give one")
        if not any(existing["Name"] == mount.source for existing in self.there.volumes):
            self.plan.volumes[mount.source] = mount.owner or self.plan.volumes.get(mount.source)

    def absent_source(self, text: str) -> None:
        # On a clean machine earlier tasks that make these folders have been skipped in check mode.
        (self.plan.warnings if self.request.check_mode else self.plan.problems).append(text)

    def files(self) -> None:
        wanted = set()
        for container in self.request.containers:
            for file in container.files:
                path = self.machine.path_of(container.name, file)
                wanted.add(path)
                stored = self.machine.files.get(path)
                reasons = _file_reasons(file, stored)
                if reasons:
                    self.plan.writes[path] = file
                    self.plan.file_steps.append(Step("file", path, "update" if stored else "create", reasons))
        for path in sorted(set(self.machine.files) - wanted):
            of_desired = any(path.startswith(self.files_of(name)) for name in self.desired)
            if of_desired or self.request.complete:
                self.plan.file_steps.append(_removal("file", path, "present"))

    def files_of(self, container: str) -> str:
        return self.machine.path_of(container, File("/", "", 0, False))

    def removals(self) -> None:
        for name in sorted(self.leaving):
            self.plan.removals.append(_removal("container", name, self.own[name]["State"]))

    def container(self, container: Container, network_ids: Mapping[str, str | None]) -> None:
        reference = self.request.reference(container)
        image = self.there.images.get(reference)
        if image is None:
            self.missing_image(container, reference)
        network = self.request.network.name
        body = create_body(
            container, self.request.grid, network, reference, self.mounts(container), self.there.api_version
        )
        step = Step("container", container.name, "wait", [], container=container, body=body)
        inspected = self.there.inspected.get(container.name)
        if inspected is None:
            step.repairs = frozenset({"create"})
            step.reasons = [{"property": "state", "current": "absent", "desired": "running"}]
        else:
            differences = [
                *compare_container(body, inspected, image, network_ids),
                *self.stale_files(container, inspected),
            ]
            step.repairs = frozenset(difference.repair for difference in differences)
            step.reasons = [difference.reason() for difference in differences]
            step.connect, step.disconnect = (
                tuple(dict.fromkeys(d.network for d in differences if d.repair == repair))
                for repair in ("connect", "disconnect")
            )
        if step.repairs:
            step.action = next(name for name in STRENGTH if name in step.repairs)
            if step.action in ("create", "recreate"):
                step.repairs = frozenset({step.action})
        state = (inspected or {}).get("State") or {}
        settling = (state.get("Health") or {}).get("Status") == "starting" or state.get("Status") == "restarting"
        step.wait = bool(step.repairs - {"update", "disconnect"}) or settling
        if step.repairs or step.wait:
            self.plan.containers.append(step)

    def stale_files(self, container: Container, inspected: Mapping[str, Any]) -> Iterable[Difference]:
        """Files that the running container has read in another version than the one wanted."""
        started = timestamp(inspected["State"]["StartedAt"])
        for file in container.files:
            path = self.machine.path_of(container.name, file)
            stored = self.machine.files.get(path)
            # The second case is a run that was broken off between writing the file and restarting the container.
            if path in self.plan.writes or (stored and stored.changed > started):
                yield Difference(f"files.{file.path}", "changed", "read anew", "restart")

    def missing_image(self, container: Container, reference: str) -> None:
        mapped = container.image in self.request.images
        if self.there.unreachable or (self.request.check_mode and mapped):
            if not any(step.name == reference for step in self.plan.images):
                reasons = [{"property": "state", "current": "absent", "desired": "will be built or loaded"}]
                self.plan.images.append(Step("image", reference, "build", reasons))
        elif mapped:
            self.problem(
                f"container {container.name}: image {container.image} ({reference}) is not on this engine; "
                "build or load it (role images)"
            )
        else:
            names = ", ".join(sorted(self.request.images)) or "none"
            self.problem(
                f"container {container.name}: image {reference} is neither in the image catalogue (names: {names}) "
                "nor on this engine; correct the name, or load the image"
            )

    def mounts(self, container: Container) -> list[dict[str, Any]]:
        mounts = []
        for mount in container.volumes:
            if mount.type == "volume":
                mounts.append(volume(mount))
            elif mount.match is None:
                mounts.append(bind(mount.source, mount.target, mount.read_only))
            else:
                for below in self.machine.expand(mount.source, mount.match):
                    mounts.append(bind(f"{mount.source}/{below}", f"{mount.target}/{below}", mount.read_only))
        for file in container.files:
            mounts.append(bind(self.machine.path_of(container.name, file), file.path, True))
        return mounts

    # Lookups

    def problem(self, text: str) -> None:
        self.plan.problems.append(text)

    def summary(self, name: str) -> Mapping[str, Any]:
        return next(summary for summary in self.there.containers if summary_name(summary) == name)

    def publisher(self, port: Port) -> str | None:
        """The container that has the port now."""
        for summary in self.there.containers:
            for taken in summary.get("Ports") or ():
                if taken.get("PublicPort") and _clash(port, taken.get("IP", ""), taken["PublicPort"], taken["Type"]):
                    return summary_name(summary)
        return None

    def release(self, network: Mapping[str, Any], why: str) -> None:
        """Note who keeps a network of this grid from being removed."""
        for name, _endpoint in attached(self.there, network):
            if name not in self.own:
                self.problem(
                    f"network {network['Name']}: {why}, but container {name} ({self.belongs(self.summary(name))}) "
                    f"is on it; disconnect that one (docker network disconnect {network['Name']} {name})"
                )
            elif name not in self.desired and name not in self.leaving:
                self.problem(
                    f"network {network['Name']}: {why}, but container {name} of this grid, which this run leaves "
                    "alone, is on it; run with all components"
                )

    def belongs(self, thing: Mapping[str, Any]) -> str:
        grid = grid_of(thing)
        if grid == self.request.grid:
            return "of this grid, not in this run"
        return f"of grid {grid}" if grid else "that no grid made"


def render(steps: Iterable[Step]) -> dict[str, str]:
    """Ansible's `diff`: before and after, with only what differs."""
    before, after = [], []
    for step in steps:
        before.append(f"{step.kind} {step.name}:")
        after.append(f"{step.kind} {step.name}:")
        for reason in step.reasons:
            before.append(_line(reason["property"], reason["current"]))
            after.append(_line(reason["property"], reason["desired"]))
    return {"before": "".join(f"{line}\n" for line in before), "after": "".join(f"{line}\n" for line in after)}


def timestamp(text: str) -> float:
    """Seconds since the epoch of Docker's time format; 0 for its "never"."""
    moment = datetime.strptime(text[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    fraction = text[19:].rstrip("Z")
    return 0.0 if moment.year < 1970 else moment.timestamp() + float(f"0{fraction}" if fraction else 0)


def _removal(kind: str, name: str, current: str) -> Step:
    return Step(kind, name, "remove", [{"property": "state", "current": current, "desired": "absent"}])


def _file_reasons(file: File, stored: StoredFile | None) -> list[dict[str, Any]]:
    reasons: list[dict[str, Any]] = []
    if stored is None or stored.content != file.content:
        current, desired = (stored.content if stored else None), file.content
        if file.secret:
            current, desired = (None if stored is None else "(secret)"), "(another secret)" if stored else "(secret)"
        reasons.append({"property": "content", "current": current, "desired": desired})
    if stored and stored.mode != file.mode:
        reasons.append({"property": "mode", "current": f"{stored.mode:04o}", "desired": f"{file.mode:04o}"})
    return reasons


def _clash(port: Port, address: str, host: int, protocol: str) -> bool:
    if (port.host, port.protocol) != (host, protocol):
        return False
    return port.address == address or port.address in WILDCARDS or address in WILDCARDS


def _subnets(network: Mapping[str, Any]) -> list[str]:
    """IPv4 ranges of a Docker network."""
    configs = (network.get("IPAM") or {}).get("Config") or ()
    return [config["Subnet"] for config in configs if "." in config.get("Subnet", "")]


def _line(name: str, value: Any) -> str:
    if value is None:
        return f"  {name}: -"
    if isinstance(value, str):
        if "\n" not in value:
            return f"  {name}: {value}"
        return f"  {name}: |\n" + "\n".join(f"    {line}" for line in value.splitlines())
    return f"  {name}: {json.dumps(value)}"
