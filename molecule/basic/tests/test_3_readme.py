"""Every command of the README runs, in its order."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, run

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
    if not line.startswith("make test")  # this very run
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str) -> None:
    done = run("bash", "-c", command)
    assert done.rc == 0, done.output


def test_converge_after_the_readme_took_the_grid_away() -> None:
    assert run("bash", "-c", COMMANDS[1]).rc == 0
