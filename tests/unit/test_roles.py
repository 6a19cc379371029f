"""Every role says the same in its argument spec and in its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(role: str, file: str) -> Any:
    path = ROOT / "roles" / role / file
    return yaml.safe_load(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_equal_defaults(role: str) -> None:
    specs = load(role, "meta/argument_specs.yml")["argument_specs"]
    options = {name: option for spec in specs.values() for name, option in spec["options"].items()}
    defaults = load(role, "defaults/main.yml") or {}
    optional = {name: option for name, option in options.items() if not option.get("required")}
    assert {name: option.get("default") for name, option in optional.items()} == defaults
    assert all(option["type"] and option["description"].strip().endswith((".", ")")) for option in options.values())


@pytest.mark.parametrize("role", ROLES)
def test_options_carry_the_roles_prefix(role: str) -> None:
    variables = [*(load(role, "defaults/main.yml") or {}), *(load(role, "vars/main.yml") or {})]
    assert all(name.startswith((f"{role}_", f"synergos_{role}")) for name in variables), variables
