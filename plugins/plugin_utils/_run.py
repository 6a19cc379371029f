# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell one playbook run from another, and read what components have published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import constants as C


def run_id() -> str:
    """Return a text that is the same in all processes of this playbook run and in no other run.

    Published definitions carry it: with a persistent fact cache, those of an earlier run would otherwise look as if
    this run had made them, and a limited run could prune what it should not.
    """
    return str(C.DEFAULT_LOCAL_TMP)


def container_of(host: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the container definition that a component's variables hold, None before its role has run."""
    published = host.get("ansible_facts", {}).get("synergos_component")
    container: dict[str, Any] | None = published["container"] if published else None
    return container
