# SPDX-License-Identifier: GPL-3.0-or-later
"""How this machine reaches package registries, handed to builds as inputs that no image keeps."""

from __future__ import annotations

import ast
import os
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
# Where a Dockerfile's build stage puts the files.
MOUNTED = "/run/build"


def files() -> dict[str, bytes]:
    """Files for the folder build/ of a context: `pip.conf`, and `ca.crt` where this machine has such a bundle."""
    configured = pip_settings(_pip_config_list())
    found = {}
    options = {option: configured[option] for option in PIP_OPTIONS if option in configured}
    certificates = _certificates(configured.get("cert"))
    if certificates is not None:
        found["build/ca.crt"] = certificates.read_bytes()
        options["cert"] = f"{MOUNTED}/ca.crt"
    lines = ["[global]", *(f"{option} = {value}" for option, value in options.items())]
    found["build/pip.conf"] = ("\n".join(lines) + "\n").encode()
    return found


def arguments(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Build arguments that Docker knows by itself and leaves out of an image's history: the proxies."""
    names = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    return {name: value for name in names if (value := environment.get(name) or environment.get(name.upper()))}


def pip_settings(lines: Iterable[str]) -> dict[str, str]:
    """Option → value from `pip config list`; the environment comes before files, the install section before global."""
    rank = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in lines:
        key, separator, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if not separator or section not in rank:
            continue
        if option not in found or found[option][0] <= rank[section]:
            found[option] = (rank[section], " ".join(str(ast.literal_eval(value)).split()))
    return {option: value for option, (_, value) in found.items()}


def _pip_config_list() -> list[str]:
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return listed.stdout.splitlines()
    # This Python has no pip: what the environment says is all there is.
    options = (
        (name[4:].lower().replace("_", "-"), value) for name, value in os.environ.items() if name.startswith("PIP_")
    )
    return [f":env:.{option}={value!r}" for option, value in options]


def _certificates(configured: str | None) -> Path | None:
    """The bundle that pip would use here: a machine behind an inspecting proxy trusts more than a fresh image does."""
    candidates = (
        configured,
        os.environ.get("REQUESTS_CA_BUNDLE"),
        os.environ.get("SSL_CERT_FILE"),
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
    )
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)
