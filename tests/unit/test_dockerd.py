"""The daemon's configuration file has other owners too, and the daemon has many versions."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from ansible_collections.synergos.grid.plugins.module_utils import _dockerd as dockerd
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError


def test_merge_sets_our_keys_and_keeps_all_others() -> None:
    current = {"runtimes": {"nvidia": {"path": "x"}}, "dns": ["1.1.1.1"], "log-opts": {"max-size": "1m", "tag": "t"}}
    ours = {"log-opts": {"max-size": "10m"}, "dns": ["9.9.9.9"], "live-restore": True}
    assert dockerd.merge(current, ours) == {
        "runtimes": {"nvidia": {"path": "x"}},
        "dns": ["9.9.9.9"],
        "log-opts": {"max-size": "10m", "tag": "t"},
        "live-restore": True,
    }
    assert current["log-opts"] == {"max-size": "1m", "tag": "t"}, "the input is not changed"


def test_merging_what_is_there_changes_nothing() -> None:
    current = {"b": {"x": 1, "y": 2}, "a": [1]}
    assert dockerd.merge(current, {"b": {"y": 2}}) == current
    assert dockerd.merge(current, {}) == current


@pytest.mark.parametrize("text", ["{", "[]", "null x", '"text"'])
def test_a_broken_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "daemon.json"
    path.write_text(text)
    with pytest.raises(GridError, match=r"daemon\.json .*nothing was changed"):
        dockerd.read(path)
    assert path.read_text() == text


def test_no_file_and_an_empty_file_are_no_configuration(tmp_path: Path) -> None:
    assert dockerd.read(tmp_path / "gone.json") == {}
    (tmp_path / "daemon.json").write_text("\n")
    assert dockerd.read(tmp_path / "daemon.json") == {}


def test_write_replaces_in_one_step_and_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "docker" / "daemon.json"
    dockerd.write(path, dockerd.text({"a": 1}))
    assert json.loads(path.read_text()) == {"a": 1}
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    dockerd.write(path, dockerd.text({"a": 2}))
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["daemon.json"], "no temporary file is left"
    dockerd.write(path, None)
    assert not path.exists()


@pytest.mark.parametrize(
    ("found", "minimum", "older"),
    [
        ("20.10.24+dfsg1", "20.10", False),
        ("19.03.15", "20.10", True),
        ("20.10.5", "20.10.7", True),
        ("28.5.1", "20.10", False),
        ("9.0", "20.10", True),
        ("26.1.5+dfsg1", "27", True),
        ("27.0.0-rc.1", "27", False),
    ],
)
def test_versions_compare_as_numbers(found: str, minimum: str, older: bool) -> None:
    assert dockerd.older(found, minimum) is older


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(GridError, match="'latest' is no version number"):
        dockerd.older("20.10", "latest")


def answering(path: Path, answer: bytes) -> None:
    """One answer on a Unix socket."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def test_version_asks_the_socket(tmp_path: Path) -> None:
    answering(tmp_path / "docker.sock", http(b'{"Version": "20.10.24+dfsg1"}'))
    assert dockerd.version(str(tmp_path / "docker.sock")) == "20.10.24+dfsg1"


def test_images_are_known_by_each_of_their_names(tmp_path: Path) -> None:
    body = b'[{"Id": "sha256:a", "Size": 5, "RepoTags": ["x:1", "lan/x:1"]}, {"Id": "b", "Size": 7, "RepoTags": null}]'
    answering(tmp_path / "docker.sock", http(body))
    same = {"id": "sha256:a", "size": 5}
    assert dockerd.images(str(tmp_path / "docker.sock")) == {"x:1": same, "lan/x:1": same}
    assert dockerd.images(str(tmp_path / "gone.sock")) == {}
    answering(tmp_path / "broken.sock", http(b'{"message": "no disk"}', b"500 Internal Server Error"))
    assert dockerd.images(str(tmp_path / "broken.sock")) == {}


def test_nobody_and_something_else_have_no_version(tmp_path: Path) -> None:
    assert dockerd.version(str(tmp_path / "gone.sock")) is None
    answering(tmp_path / "other.sock", b"hello\r\n")
    assert dockerd.version(str(tmp_path / "other.sock")) is None


def test_an_engine_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    with pytest.raises(GridError, match=r"DOCKER_HOST is tcp://192\.0\.2\.1:2375"):
        dockerd.socket_path()
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    assert dockerd.socket_path() == "/run/user/1000/docker.sock"
