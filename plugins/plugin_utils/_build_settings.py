# SPDX-License-Identifier: GPL-3.0-or-later
"""How this machine reaches package registries, handed to builds as inputs that no image keeps."""

from __future__ import annotations

import ast
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
# How Go reaches modules and how far it trusts them; not how this machine builds (GOFLAGS and the like).
GO_SETTINGS = ("GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE")
# Where a Dockerfile's build stage puts the files.
MOUNTED = "/run/build"


def files() -> dict[str, bytes]:
    """Files for the folder build/ of a context: `pip.conf`; where this machine has them `ca.crt`, `go.env`, maven/."""
    configured = pip_settings(_pip_config_list())
    found = {}
    options = {option: configured[option] for option in PIP_OPTIONS if option in configured}
    certificates = _certificates(configured.get("cert"))
    if certificates is not None:
        found["build/ca.crt"] = certificates.read_bytes()
        options["cert"] = f"{MOUNTED}/ca.crt"
    lines = ["[global]", *(f"{option} = {value}" for option, value in options.items())]
    found["build/pip.conf"] = ("\n".join(lines) + "\n").encode()
    go = go_settings()
    if go:
        found["build/go.env"] = "".join(f"{name}={value}\n" for name, value in go.items()).encode()
    found.update((f"build/maven/{name}", content) for name, content in maven_settings().items())
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


def go_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What this machine sets of GO_SETTINGS; the environment comes before Go's own file."""
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(environment.get("GOENV") or f"{home}/go/env")
    lines = path.read_text().splitlines() if path.is_file() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    found.update(environment)
    return {name: found[name] for name in GO_SETTINGS if found.get(name)}


def maven_settings(environment: Mapping[str, str] = os.environ) -> dict[str, bytes]:
    """File name → content: the user's `settings.xml`, its `settings-security.xml`, and `global.xml`.

    A machine without a global file gets one that says what Maven does not read from the environment: the proxy.
    """
    user = Path.home() / ".m2"
    found = {
        name: (user / name).read_bytes()
        for name in ("settings.xml", "settings-security.xml")
        if (user / name).is_file()
    }
    program = shutil.which("mvn", path=environment.get("PATH"))
    homes = [environment.get("MAVEN_HOME"), environment.get("M2_HOME"), program and Path(program).resolve().parents[1]]
    settings = next((path for home in homes if home and (path := Path(home, "conf/settings.xml")).is_file()), None)
    generated = _maven_proxy(arguments(environment))
    if settings is not None:
        found["global.xml"] = settings.read_bytes()
    elif generated is not None:
        found["global.xml"] = generated
    return found


def _maven_proxy(proxies: Mapping[str, str]) -> bytes | None:
    address = urlsplit(proxies.get("https_proxy") or proxies.get("http_proxy") or "")
    if not address.hostname:
        return None
    root = ElementTree.Element("settings")
    proxy = ElementTree.SubElement(ElementTree.SubElement(root, "proxies"), "proxy")
    # Maven asks the proxy for http for both kinds of address where there is no other.
    values = {
        "id": "environment",
        "protocol": "http",
        "host": address.hostname,
        "port": str(address.port or 80),
        "username": unquote(address.username or ""),
        "password": unquote(address.password or ""),
        "nonProxyHosts": "|".join(
            f"*{name}" if name.startswith(".") else name
            for name in proxies.get("no_proxy", "").replace(",", " ").split()
        ),
    }
    for name, value in values.items():
        if value:
            ElementTree.SubElement(proxy, name).text = value
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


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
