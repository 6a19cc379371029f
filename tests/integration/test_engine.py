"""The module `engine` against the running Docker, with files of its own; Docker is never restarted here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COLLECTIONS = Path(__file__).resolve().parents[2] / "collections"


def engine(*, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module in a process of its own, as Ansible does."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.synergos.grid.plugins.modules.engine"],
        input=json.dumps(
            {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": check, "_ansible_remote_tmp": "/tmp"}}
        ),
        env={**os.environ, "PYTHONPATH": str(COLLECTIONS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_nothing_to_do_where_docker_answers(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    result = engine(config_file=str(file))
    assert (result["changed"], result["installed"], result["actions"]) == (False, True, [])
    assert result["version"] and result["python"] == sys.executable
    assert not file.exists(), "no configuration, no file"


def test_keys_that_are_set_are_no_change(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    text = '{"log-opts":{"max-size":"10m","tag":"x"},"debug":false}'
    file.write_text(text)
    result = engine(config_file=str(file), daemon_config={"log-opts": {"max-size": "10m"}})
    assert (result["changed"], file.read_text()) == (False, text)


def test_check_mode_shows_the_difference_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"dns": ["9.9.9.9"]}')
    result = engine(check=True, config_file=str(file), daemon_config={"debug": True})
    assert result["changed"] and result["actions"] == [f"set debug in {file}", "restart"]
    assert json.loads(result["diff"]["before"]) == {"dns": ["9.9.9.9"]}
    assert json.loads(result["diff"]["after"]) == {"dns": ["9.9.9.9"], "debug": True}
    assert file.read_text() == '{"dns": ["9.9.9.9"]}'


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({"daemon_config": {"debug": True}}, "{broken", "is not valid JSON"),
        ({"minimum_version": "999"}, "{}", "is older than 999"),
        ({"minimum_version": "newest"}, "{}", "'newest' is no version number"),
    ],
)
def test_refusals_change_nothing(tmp_path: Path, options: dict[str, Any], text: str, message: str) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(text)
    result = engine(config_file=str(file), **options)
    assert message in result["msg"]
    assert file.read_text() == text
