"""What is read from the engine's machine, and what is kept on it."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from ansible_collections.synergos.grid.plugins.module_utils import _host
from ansible_collections.synergos.grid.plugins.module_utils._definition import File
from ansible_collections.synergos.grid.plugins.module_utils._engine import demultiplex
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._state import State, expand

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101A8C0	0003	0	0	0	00000000	0	0	0
tun0	000010AC	00000000	0001	0	0	0	0000F0FF	0	0	0
"""
TRIE = """\
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 192.168.1.7
        /32 host LOCAL
     |-- 192.168.1.255
        /32 link BROADCAST
"""
SOCKETS = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 222 1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1
"""


def test_tables_of_the_kernel() -> None:
    assert _host.parse_routes(ROUTES) == [_host.Route(IPv4Network("172.16.0.0/12"), "tun0")]
    assert _host.parse_addresses(TRIE) == [IPv4Address("192.168.1.7")]
    assert _host.parse_sockets(SOCKETS, 8080) == {"111"}


def test_who_holds_a_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        comm = Path("/proc/self/comm").read_text().strip()
        holder = f"is held by process {comm} (pid {os.getpid()})"
        assert _host.why_unusable("127.0.0.1", port, "tcp") == holder
        assert _host.why_unusable("0.0.0.0", port, "tcp") == holder
        assert _host.why_unusable("127.0.0.1", port, "udp") is None
    assert _host.why_unusable("127.0.0.1", port, "tcp") is None
    assert _host.why_unusable("203.0.113.9", port, "tcp") == (
        "cannot be published: this machine does not have the address"
    )


def test_frames_of_docker() -> None:
    raw = b"\x01\0\0\0\0\0\0\x03out" + b"\x02\0\0\0\0\0\0\x03err" + b"\x01\0\0\0\0\0\0\x02\xff!"
    assert demultiplex(raw) == ("out\ufffd!", "err")


def test_files_are_replaced_whole_and_pruned(tmp_path: Path) -> None:
    state = State(str(tmp_path / "state"), "g")
    with state.lock():
        path = state.path_of("a", File("/etc/x", "", 0, False))
        state.write(path, File("/etc/x", "one", 0o400, True))
        with Path(path).open() as reader:
            state.write(path, File("/etc/x", "two", 0o444, True))
            assert reader.read() == "one"  # who has it open keeps what he began to read
        stored = state.stored()[path]
        assert (stored.content, stored.mode) == ("two", 0o444)
        state.remove(path)
        assert state.stored() == {}
        assert not (tmp_path / "state/g/files").exists()
        assert (tmp_path / "state/g").stat().st_mode & 0o777 == 0o700


def test_two_runs_do_not_change_one_grid_at_once(tmp_path: Path) -> None:
    state = State(str(tmp_path), "g")
    busy = pytest.raises(GridError, match="another run is changing this grid")
    with state.lock(), State(str(tmp_path), "h").lock(), busy, State(str(tmp_path), "g").lock():
        pass
    with state.lock():
        pass


def test_teardown_removes_only_folders_that_were_made(tmp_path: Path) -> None:
    state = State(str(tmp_path / "state"), "g")
    me = (os.getuid(), os.getgid())
    with state.lock():
        for name in ("made/here", "made/again", "swapped", "shared/mine"):
            state.make_folder(str(tmp_path / name), me)
    (tmp_path / "made/here/result").write_text("x")
    (tmp_path / "shared/of_others").write_text("x")
    (tmp_path / "swapped").rename(tmp_path / "elsewhere")
    (tmp_path / "swapped").mkdir()  # now someone else's

    assert str(tmp_path / "swapped") not in state.folders()
    for path in state.folders():
        state.remove_folder(path)
    assert state.clear(keep_record=False, check_mode=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "shared", "swapped"]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["of_others"]


def test_the_record_outlives_a_teardown_that_keeps_data(tmp_path: Path) -> None:
    state = State(str(tmp_path / "state"), "g")
    with state.lock():
        state.make_folder(str(tmp_path / "out"), (os.getuid(), os.getgid()))
        state.write(state.path_of("a", File("/x", "", 0, False)), File("/x", "secret", 0o444, True))
    assert state.clear(keep_record=True, check_mode=False)
    assert state.folders() == [str(tmp_path / "out")]
    assert state.stored() == {}
    assert not state.clear(keep_record=True, check_mode=False)


def test_patterns_of_folders(tmp_path: Path) -> None:
    for name in ("b/dataset/data1", "a/dataset/data1", "a/dataset/data2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/dataset").write_text("a file")
    assert expand(str(tmp_path), "*/dataset/data1") == ["a/dataset/data1", "b/dataset/data1"]
    assert expand(str(tmp_path / "none"), "*") == []
