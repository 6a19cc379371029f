"""The one private name of Flower that this package needs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import synergos.federation


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_messages_need_it_and_get_it() -> None:
    make = "from flwr.app import Message, RecordDict; Message(RecordDict(), 1, 'train')"
    advice = (
        f"flwr {importlib.metadata.version('flwr')} treats the identity of a task differently from 1.42: "
        "look at flwr.app.Message and adapt synergos/federation/identity.py (or drop it, if it is no longer needed)."
    )
    bare = run(make)
    assert bare.returncode != 0, advice
    assert "TaskIdentity" in bare.stderr, advice
    adopted = run(f"from synergos.federation import identity; identity.adopt(); {make}")
    assert adopted.returncode == 0, f"{advice}\n{adopted.stderr}"
    kept = run(
        "from flwr.supercore.task_identity import TaskIdentity as T; T.task_id, T.run_id, T.node_id = 5, 6, 7\n"
        "from synergos.federation import identity; identity.adopt()\n"
        "assert (T.task_id, T.run_id, T.node_id) == (5, 6, 7)"
    )
    assert kept.returncode == 0, f"{advice}\n{kept.stderr}"


def test_no_other_private_name_is_used() -> None:
    public = re.compile(r"flwr\.(app|clientapp|serverapp)\b(?!\.(?!strategy))")
    for path in Path(synergos.federation.__file__).parent.glob("*.py"):
        if path.name == "identity.py":
            continue
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import) flwr", line):
                assert public.search(line), f"{path.name}: {line}"
