# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine's machine itself uses: routes, addresses, ports. Read from /proc; nothing is contacted."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Route(NamedTuple):
    network: ipaddress.IPv4Network
    interface: str


def routes() -> list[Route]:
    try:
        return parse_routes((PROC / "net/route").read_text())
    except OSError:  # not Linux's /proc: Docker itself then refuses what overlaps
        return []


def parse_routes(text: str) -> list[Route]:
    """The table of /proc/net/route without default routes."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8:
            continue
        address, mask = (int.from_bytes(bytes.fromhex(fields[index]), "little") for index in (1, 7))
        if mask:
            found.append(Route(ipaddress.IPv4Network((address, bin(mask).count("1"))), fields[0]))
    return found


def addresses() -> list[ipaddress.IPv4Address]:
    try:
        return parse_addresses((PROC / "net/fib_trie").read_text())
    except OSError:
        return []


def parse_addresses(text: str) -> list[ipaddress.IPv4Address]:
    """The machine's own addresses in /proc/net/fib_trie."""
    found = set()
    leaf = ""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            leaf = words[1]
        elif words[:3] == ["/32", "host", "LOCAL"]:
            found.add(ipaddress.IPv4Address(leaf))
    return sorted(found)


def why_unusable(address: str, port: int, protocol: str) -> str | None:
    """Why `address:port` cannot be listened on: by whom it is held, or that the machine lacks the address."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if protocol == "tcp":
            # Connections that linger after their listener has gone do not hold a port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is held by {listener(port, protocol) or 'a process of this machine'}"
            if error.errno == errno.EADDRNOTAVAIL:
                return "cannot be published: this machine does not have the address"
            if error.errno == errno.EACCES:  # below 1024 without root; the daemon may
                return None
            return f"cannot be published: {error.strerror}"
    return None


def listener(port: int, protocol: str) -> str | None:
    """The process that listens on `port`, as far as /proc lets this user see it."""
    inodes: set[str] = set()
    for table in (protocol, f"{protocol}6"):
        with contextlib.suppress(OSError):
            inodes |= parse_sockets((PROC / "net" / table).read_text(), port)
    for process in _processes() if inodes else ():
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if _socket_inode(str(descriptor.readlink())) in inodes:
                        return f"process {(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def parse_sockets(text: str, port: int) -> set[str]:
    """Inodes of the sockets of /proc/net/{tcp,udp}[6] that listen on `port`."""
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        # 0A is a listening TCP socket, 07 an open UDP one.
        if len(fields) > 9 and fields[3] in ("0A", "07") and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(fields[9])
    return found


def _processes() -> Iterable[Path]:
    return (path for path in PROC.iterdir() if path.name.isdigit())


def _socket_inode(link: str) -> str:
    return link[len("socket:[") : -1] if link.startswith("socket:[") else ""
