"""Every role says the same in its argument specs and in its defaults."""

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


def specs(role: str) -> dict[str, dict[str, Any]]:
    """The options of each entry point."""
    loaded = load(role, "meta/argument_specs.yml")["argument_specs"]
    return {entry: spec["options"] for entry, spec in loaded.items()}


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_equal_defaults(role: str) -> None:
    options = {name: option for entry in specs(role).values() for name, option in entry.items()}
    defaults = load(role, "defaults/main.yml") or {}
    optional = {name: option for name, option in options.items() if not option.get("required")}
    assert {name: option.get("default") for name, option in optional.items()} == defaults
    assert all(option["type"] and option["description"].strip().endswith((".", ")")) for option in options.values())


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_exist_and_agree_on_the_options_that_they_share(role: str) -> None:
    seen: dict[str, Any] = {}
    for entry, options in specs(role).items():
        assert (ROOT / "roles" / role / "tasks" / f"{entry}.yml").is_file()
        for name, option in options.items():
            assert seen.setdefault(name, option) == option, name


@pytest.mark.parametrize("role", ROLES)
def test_every_option_is_used(role: str) -> None:
    """In the tasks of its entry point, or through a variable or another option."""
    files = [*(ROOT / "roles" / role).glob("tasks/*.yml"), *(ROOT / "roles" / role).glob("vars/*.yml")]
    text = "".join(path.read_text() for path in files)
    text += "".join(str(value) for value in (load(role, "defaults/main.yml") or {}).values())
    for entry in specs(role).values():
        assert all(name in text for name in entry), [name for name in entry if name not in text]


@pytest.mark.parametrize("role", ROLES)
def test_options_carry_the_roles_prefix(role: str) -> None:
    variables = [*(load(role, "defaults/main.yml") or {}), *(load(role, "vars/main.yml") or {})]
    assert all(name.startswith((f"{role}_", f"synergos_{role}")) for name in variables), variables
