"""Every command of the README for this tier runs, in its order."""

from __future__ import annotations

import re

import pytest
from conftest import README, readme_commands, run

COMMANDS = readme_commands("basic")
SCRIPT = "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE))
TEARDOWN = [command for command in COMMANDS if "teardown" in command]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in TEARDOWN])
def test_command(command: str) -> None:
    done = run("bash", "-c", command)
    assert done.rc == 0, done.output


def test_python() -> None:
    done = run(".venv/bin/python", "-c", SCRIPT)
    assert done.rc == 0, done.output
    assert re.search(r"worker_2 \{.*'R2': 0\.[3-9]", done.output), done.output
    assert re.search(r"^train done [0-9a-f]{32}$", done.output, re.MULTILINE), done.output


@pytest.mark.parametrize("command", TEARDOWN)
def test_taking_the_grid_away(command: str) -> None:
    test_command(command)


def test_converge_after_the_readme_took_the_grid_away() -> None:
    assert run("bash", "-c", ".venv/bin/ansible-playbook playbooks/synbasic.yml").rc == 0
