# SPDX-License-Identifier: GPL-3.0-or-later
"""Build, pull and make images through the Docker SDK, telling a progress file what happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

with contextlib.suppress(ImportError):
    import docker
    from docker.utils import parse_repository_tag

LABEL = "org.synergos.image"
SILENT_PULL = 20  # seconds without a word from the registry, after which there is none
SILENT_BUILD = 1800  # seconds without a line from a build step
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
STEP = re.compile(r"Step (\d+/\d+) : (.*)")
NOISE = re.compile(
    r" ---> |Removing intermediate container|Successfully (built|tagged) |\[Warning\] One or more build-args"
)
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Progress:
    """One JSON object a line: image, text, and whether it is worth a line in any case (milestone)."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def __call__(self, image: str, text: str, milestone: bool = False) -> None:
        self._write({"image": image, "text": text, "milestone": milestone})

    def end(self) -> None:
        self._write({"end": True})

    def _write(self, entry: dict[str, Any]) -> None:
        if self._path:
            with Path(self._path).open("a") as file:
                file.write(json.dumps(entry) + "\n")


def connect(timeout: int = 60) -> docker.APIClient:
    """The engine that the environment names (DOCKER_HOST) or the local one; errors are GridError."""
    try:
        return docker.from_env(timeout=timeout).api
    except NameError:
        raise GridError("this Python has no Docker SDK (package docker, at least 7.1)") from None
    except docker.errors.DockerException as error:
        raise GridError(
            f"Docker does not answer: {error}. Run the role engine first, with the right to use Docker's socket"
        ) from error


def find(api: docker.APIClient, reference: str) -> dict[str, Any] | None:
    """Identifier and size in bytes of a local image."""
    try:
        found = api.inspect_image(reference)  # type: ignore[no-untyped-call]  # as types-docker has it
    except docker.errors.ImageNotFound:
        return None
    return {"id": found["Id"], "size": found["Size"]}


def pull(image: str, reference: str, progress: Progress) -> None:
    repository, tag = parse_repository_tag(reference)
    reported = time.monotonic()
    try:
        for event in connect(SILENT_PULL).pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in event:
                raise GridError(event["error"])
            if time.monotonic() - reported > 1:
                progress(image, f"pulling {reference}: {event.get('status', '')} {event.get('progress', '')}".rstrip())
                reported = time.monotonic()
    except (docker.errors.APIError, OSError) as error:
        raise GridError(getattr(error, "explanation", None) or str(error)) from error


def build(
    api: docker.APIClient, image: Mapping[str, Any], parent: str, arguments: Mapping[str, str], progress: Progress
) -> None:
    """Build and tag one image with the classic builder; `image` has name, reference, context (a tar file), nocache."""
    step, said, name = "", deque[str](maxlen=20), image["name"]
    try:
        with Path(image["context"]).open("rb") as file:
            events = connect(SILENT_BUILD).build(
                fileobj=file,
                custom_context=True,
                tag=image["reference"],
                buildargs={**arguments, "PARENT": parent},
                labels={LABEL: name},
                nocache=image["nocache"],
                rm=True,
                forcerm=True,
                decode=True,
            )
            for event in events:
                if "error" in event:
                    raise GridError(_why(name, step, event["error"].strip(), said))
                for line in ESCAPES.sub("", event.get("stream", "")).splitlines():
                    found = STEP.match(line)
                    if found:
                        step = f"step {found[1]}"
                        progress(name, f"{step}: {_short(found[2])}")
                    elif line.strip() and not NOISE.match(line):
                        said.append(line.rstrip())
                        progress(name, f"{step}: {_short(line)}")
    except (docker.errors.APIError, OSError) as error:
        raise GridError(_why(name, step, getattr(error, "explanation", None) or str(error), said)) from error


def root(
    api: docker.APIClient, name: str, image: str, suite: str, work: Path, proxies: Mapping[str, str], progress: Progress
) -> str:
    """The reference of a Debian root file system: the given image, else one made here with mmdebstrap."""
    own = f"synergos/debian:{suite}"
    for reference in (image, own):
        if find(api, reference):
            return reference
    try:
        pull(name, image, progress)
        return image
    except GridError as error:
        reason = _short(str(error))
    progress(name, f"{image} cannot be pulled ({reason}): making Debian {suite} with mmdebstrap", milestone=True)
    archive = work / "root.tar"
    try:
        _have_mmdebstrap()
        _run(_mmdebstrap(suite, archive), proxies)
    except GridError as error:
        raise GridError(
            f"{image} is not on the engine and cannot be pulled ({reason}), and Debian {suite} cannot be made here. "
            f"Load {image} with `docker load`, or set synergos_images.{name}.image to an image that is there. {error}"
        ) from error
    progress(name, "importing the root file system")
    api.import_image_from_file(str(archive), repository="synergos/debian", tag=suite)
    archive.unlink()
    return own


def _mmdebstrap(suite: str, archive: Path) -> list[str]:
    return [
        *("mmdebstrap", "--variant=minbase", "--dpkgopt=force-unsafe-io"),
        # Named, because Ubuntu does not trust Debian's keys by itself.
        *([f"--keyring={KEYRING}"] if Path(KEYRING).exists() else []),
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "info", "locale", "doc")),
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        '--aptopt=Acquire::Languages "none"',
        # mmdebstrap takes these from the machine, and the catalogue's base image brings its own package settings.
        '--customize-hook=rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/machine-id',
        '--customize-hook=rm -f "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        *(suite, str(archive)),
    ]


def _have_mmdebstrap() -> None:
    if shutil.which("mmdebstrap"):
        return
    if not shutil.which("apt-get"):
        raise GridError("mmdebstrap is not installed, and there is no apt-get to install it with.")
    if os.geteuid() != 0:
        raise GridError("mmdebstrap is not installed, and only root (become: true) can install it.")
    _run(["apt-get", "update", "-q"], {})
    packages = ["mmdebstrap", "debian-archive-keyring"]
    _run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], {"DEBIAN_FRONTEND": "noninteractive"}
    )


def _run(command: list[str], environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, **environment, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-15:])
        raise GridError(f"{command[0]} failed ({done.returncode}):\n{last}")


def work_folder(progress: str | None) -> str:
    """Where large temporary files go: beside the contexts."""
    return str(Path(progress).parent) if progress else tempfile.gettempdir()


def _why(name: str, step: str, error: str, said: Iterable[str]) -> str:
    return f"building image {name} failed at {step or 'the start'}: {error}\nLast lines:\n" + "\n".join(said)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 110 else line[:109] + "…"
