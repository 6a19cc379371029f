# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of a network: fixed ones in the lower half of the subnet, those that Docker hands out in the upper half."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._definition import Container


@dataclass(frozen=True)
class Network:
    name: str
    subnet: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address
    internal: bool = False  # without a way out of the engine, and without an address of the engine in it

    @property
    def dynamic(self) -> ipaddress.IPv4Network:
        """The part from which Docker hands out addresses."""
        return list(self.subnet.subnets())[1]


def parse_network(value: Mapping[str, Any]) -> tuple[Network | None, list[str]]:
    """Check the mapping `name`, `subnet`, `gateway` (default: the first address)."""
    name, text = str(value.get("name")), value.get("subnet")
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        return None, [f"network {name}: subnet: {error}; give an IPv4 network such as 172.18.0.0/24"]
    if subnet.prefixlen > 29:
        return None, [f"network {name}: subnet {subnet} is too small for fixed and dynamic addresses; use /29 or wider"]
    try:
        gateway = ipaddress.IPv4Address(value.get("gateway") or subnet[1])
    except ValueError:
        return None, [f"network {name}: gateway: expected an IPv4 address, got {value.get('gateway')!r}"]
    network = Network(name, subnet, gateway)
    lower = next(subnet.subnets())
    if gateway not in lower or gateway == subnet[0]:
        return None, [f"network {name}: gateway {gateway} must be one of {lower[1]} to {lower[-1]}"]
    return network, []


def further_networks(containers: Sequence[Container], main: Network) -> tuple[list[Network], list[str]]:
    """The further networks that containers are on, as they describe them, and every contradiction."""
    networks: dict[str, Network] = {main.name: main}
    problems: list[str] = []
    for container in containers:
        for attachment in container.networks:
            where = f"container {container.name}: networks"
            network, found = parse_network({"name": attachment.name, "subnet": attachment.subnet})
            problems += [f"{where}: {problem}" for problem in found]
            if network is None:
                continue
            network = replace(network, internal=attachment.internal)
            if networks.setdefault(network.name, network) != network:
                problems.append(
                    f"{where}: {network.name} is described otherwise elsewhere in this grid; give the same subnet and "
                    "the same value of internal everywhere, or another name"
                )
    for one, other in itertools.combinations(networks.values(), 2):
        if one.subnet.overlaps(other.subnet):
            problems.append(
                f"network {other.name}: subnet {other.subnet} overlaps {one.subnet} of network {one.name}; give it "
                "another one"
            )
    return list(networks.values())[1:], problems


def members(containers: Sequence[Container], network: str, main: str) -> list[tuple[str, str]]:
    """Names and addresses of the containers on a network; `main` is the one that all are on."""
    if network == main:
        return [(container.name, container.address) for container in containers]
    return [
        (container.name, attachment.address)
        for container in containers
        for attachment in container.networks
        if attachment.name == network
    ]


def check_addresses(members: Iterable[tuple[str, str]], network: Network) -> list[str]:
    """Every fixed address that cannot work, with what would. `members` are names and addresses."""
    problems = []
    holders: dict[str, str] = {}
    lower = next(network.subnet.subnets())
    remedy = f"give it a free address from {lower[1]} to {lower[-1]} other than the gateway; Docker hands out the rest"
    for name, text in members:
        address = ipaddress.IPv4Address(text)
        reason = None
        if address not in network.subnet:
            reason = f"is outside the subnet {network.subnet} of network {network.name}"
        elif address == network.subnet.network_address:
            reason = f"is the network's own address in {network.subnet}"
        elif address == network.subnet.broadcast_address:
            reason = f"is the broadcast address of {network.subnet}"
        elif address == network.gateway:
            reason = f"is the gateway of network {network.name}"
        elif address in network.dynamic:
            reason = f"is in {network.dynamic}, from which Docker hands out addresses"
        elif text in holders:
            reason = f"is already the address of container {holders[text]}"
        if reason:
            problems.append(f"container {name}: address {address} {reason}; {remedy}")
        else:
            holders[text] = name
    return problems
