# SPDX-License-Identifier: GPL-3.0-or-later
"""Docker's daemon as a process of this machine: ask it, configure it, start it. Needs no Docker SDK."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

SOCKET = "/var/run/docker.sock"
PIDFILE = Path("/var/run/docker.pid")
SYSV_PIDFILE = Path("/var/run/docker-ssd.pid")
LOG = Path("/var/log/dockerd.log")
START = 60.0  # seconds to answer after a start
STOP = 60.0  # seconds to end after a request; the daemon stops its containers first
SEARCH = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path() -> str:
    """The local daemon's socket; DOCKER_HOST may name another one."""
    host = os.environ.get("DOCKER_HOST", "")
    if host and not host.startswith("unix://"):
        raise GridError(f"DOCKER_HOST is {host}: unset it, and put an engine on another machine into the inventory")
    return host[len("unix://") :] or SOCKET


def version(path: str) -> str | None:
    """The version of the daemon behind a socket, None where none answers."""
    answer = _get(path, "/version")
    return str(answer.get("Version", "")) or None if answer is not None else None


def images(path: str) -> dict[str, dict[str, Any]]:
    """Identifier and size in bytes of every image that has a name, by name; empty where no daemon answers."""
    return {
        name: {"id": image["Id"], "size": image["Size"]}
        for image in _get(path, "/images/json") or ()
        for name in image.get("RepoTags") or ()
    }


def _get(path: str, url: str) -> Any:
    """Return what the daemon answers, decoded; None where none answers."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", url)
        answer = connection.getresponse()
        decoded = json.loads(answer.read())
    except PermissionError as error:
        raise GridError(
            f"{path} refuses this user: connect as root (become: true) or as a member of the group docker"
        ) from error
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return decoded if answer.status == http.client.OK else None


def older(found: str, minimum: str) -> bool:
    """Whether version `found` (20.10.24+dfsg1) is older than `minimum` (20.10)."""
    wanted = _numbers(minimum)
    return _numbers(found)[: len(wanted)] < wanted


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", text)
    if not found:
        raise GridError(f"{text!r} is no version number such as 20.10")
    return tuple(int(part) for part in found[0].split("."))


def read(path: Path) -> dict[str, Any]:
    """The daemon's configuration file; {} where there is none."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        config = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise GridError(f"{path} is not valid JSON ({error}): correct or remove it, nothing was changed") from error
    if not isinstance(config, dict):
        raise GridError(f"{path} holds no JSON object: correct or remove it, nothing was changed")
    return config


def merge(current: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`current` with our keys set; objects are merged key by key, everything else is replaced."""
    merged = dict(current)
    for key, value in ours.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, ensure_ascii=False) + "\n" if config else ""


def write(path: Path, content: str | None) -> None:
    """Replace a file in one step, keeping its mode; None removes it."""
    if content is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


class Daemon:
    """Starts and restarts dockerd through systemd, else the init script, else as a background process."""

    def __init__(self, path: str) -> None:
        self._socket = path
        # How a daemon without service manager is started: as the one was that ran before.
        self._arguments = ["dockerd"]

    @property
    def installed(self) -> bool:
        return shutil.which("dockerd", path=SEARCH) is not None

    def start(self) -> str:
        """Start the daemon and return by what means; it answers then."""
        if _systemd():
            return self._by_systemd("start")
        if _pid() is not None:  # somebody else is just starting it
            self._wait(None)
            return "found starting"
        if Path("/etc/init.d/docker").exists():
            done = _command("service", "docker", "start")
            # The script fails where it may not raise limits, although the daemon itself would run.
            if done.returncode == 0 and self._answers(START / 2):
                return "init script"
        self._directly()
        return "background process"

    def restart(self) -> str:
        """Restart the daemon the way it was started."""
        if _systemd():
            return self._by_systemd("restart")
        pid = _pid()
        if pid is None:
            raise GridError(f"{PIDFILE} names no running dockerd, and no service manager runs: restart Docker by hand")
        scripted = _read_pid(SYSV_PIDFILE) == pid
        self._arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP
        while _pid() == pid:
            if time.monotonic() > deadline:
                raise GridError(
                    f"dockerd (pid {pid}) did not end within {STOP:.0f} s after SIGTERM: look at its containers"
                )
            time.sleep(0.1)
        if scripted:
            return self.start()
        self._directly()
        return "background process"

    def _by_systemd(self, verb: str) -> str:
        # Earlier failures would make systemd refuse to try again.
        _command("systemctl", "reset-failed", "docker")
        done = _command("systemctl", verb, "docker")
        if done.returncode == 0 and self._answers(START):
            _command("systemctl", "enable", "docker")
            return "systemd"
        journal = _command("journalctl", "--unit", "docker", "--lines", "20", "--no-pager", "--output", "cat").stdout
        raise GridError(
            f"`systemctl {verb} docker` brought no Docker that answers at {self._socket}. Last log lines:\n"
            f"{journal or done.stdout}"
        )

    def _directly(self) -> None:
        pid = _read_pid(PIDFILE)
        if pid is not None and _pid() is None:
            PIDFILE.unlink()  # left by a daemon that was killed; its number may be another process's by now
        size = LOG.stat().st_size if LOG.exists() else 0
        with LOG.open("ab") as log:
            process = subprocess.Popen(
                self._arguments,
                env={**os.environ, "PATH": SEARCH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
            )
        self._wait(process, size)

    def _wait(self, process: subprocess.Popen[bytes] | None, logged: int = 0) -> None:
        if self._answers(START, process):
            return
        ended = process is not None and process.poll() is not None
        if process is not None and not ended:
            process.terminate()
        said = ""
        with contextlib.suppress(OSError), LOG.open("rb") as log:
            log.seek(logged)
            said = "\n".join(log.read().decode(errors="replace").splitlines()[-15:])
        state = "ended" if ended else f"does not answer at {self._socket} after {START:.0f} s"
        raise GridError(f"dockerd was started without a service manager and {state}. Last lines of {LOG}:\n{said}")

    def _answers(self, seconds: float, process: subprocess.Popen[bytes] | None = None) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (process is None or process.poll() is None):
            if version(self._socket):
                return True
            time.sleep(0.2)
        return False


def _systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def _pid() -> int | None:
    """The running dockerd that Docker's own pid file names."""
    pid = _read_pid(PIDFILE)
    with contextlib.suppress(OSError):
        if pid is not None and Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd" and _state(pid) != "Z":
            return pid
    return None


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _read_pid(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        env={**os.environ, "PATH": SEARCH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
