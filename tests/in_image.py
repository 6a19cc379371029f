#!/usr/bin/env python3
"""Run a command in the services' test image: torch lives in images only.

Usage: tests/in_image.py COMMAND [ARGUMENT ...]

The command runs in a one-shot container that sees the checkout read-only at /src and works in /src/services.
tests/image.yml builds the image.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import docker

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.synergos.grid.plugins.plugin_utils import _catalogue  # noqa: E402


def main(argv: list[str]) -> int:
    """Return the command's exit code."""
    # Whoever ends this ends the container, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    definitions = _catalogue.load(ROOT / "images")
    image = _catalogue.references(definitions, _catalogue.select(definitions, ["test"], {}), {})["test"]
    container = docker.from_env().containers.create(
        image,
        argv,
        entrypoint=[],
        environment={"PYTHONPATH": "src", "SYNERGOS_FULL": os.environ.get("SYNERGOS_FULL", "")},
        volumes={str(ROOT): {"bind": "/src", "mode": "ro"}},
        working_dir="/src/services",
        tmpfs={"/tmp": "exec,mode=1777"},
        labels={"org.synergos.test": "services"},
        network_mode="none",
    )
    try:
        container.start()
        for chunk in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
