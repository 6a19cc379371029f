"""Runs a service like loopback.py, and holds it at a moment of its work when a test asks for that.

A test writes the name of a moment to the file `moment` below the service's root. The thread that comes to it first
renames the file to `moment.reached`, and goes on when there is a file `moment.go`; until then the test may kill what
it likes.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

# Name -> before or after which method, and which type one of its arguments must have.
MOMENTS = {
    "director": {
        "stored": ("before", "synergos.director.desk:Desk.do", ""),
        "sending": ("before", "synergos.queue.broker:Publisher.publish", "Job"),
        "confirmed": ("after", "synergos.queue.broker:Publisher.publish", "Job"),
        "answer heard": ("before", "synergos.director.desk:Desk._take_answer", ""),
        "answer stored": ("after", "synergos.director.desk:Desk._take_answer", ""),
        "fetching": ("before", "synergos.artefacts:Store.fetch", ""),
        "fetched": ("after", "synergos.artefacts:Store.fetch", ""),
        "removed": ("after", "synergos.artefacts:Store.drop", ""),
        "result stored": ("before", "synergos.orchestrator.queue:JobQueue._store_end", ""),
    },
    "ttp": {
        "taken": ("before", "synergos.ttp.queued:QueuedGrid.do", ""),
        "done": ("after", "synergos.ttp.queued:QueuedGrid.do", ""),
        "published": ("after", "synergos.queue.broker:Publisher.publish", "Completed"),
    },
    "worker": {},
}


def arm(component: str, root: Path) -> None:
    """Prepare all moments of a component."""
    armed, reached, go = (root / name for name in ("moment", "moment.reached", "moment.go"))

    def hold(name: str) -> None:
        with suppress(OSError):
            if armed.read_text() == name:
                armed.rename(reached)
                while not go.exists():
                    time.sleep(0.02)

    def prepare(name: str, when: str, target: str, kind: str) -> None:
        module, _, path = target.partition(":")
        owner = getattr(importlib.import_module(module), path.split(".")[0])
        method = getattr(owner, path.split(".")[1])

        @functools.wraps(method)
        def held(*args: Any, **kwargs: Any) -> Any:
            here = not kind or any(type(each).__name__ == kind for each in args)
            if here and when == "before":
                hold(name)
            result = method(*args, **kwargs)
            if here and when == "after":
                hold(name)
            return result

        setattr(owner, path.split(".")[1], held)

    for name, place in MOMENTS[component].items():
        prepare(name, *place)


if __name__ == "__main__":
    arm(sys.argv[2], Path(os.environ["SYNERGOS_ROOT"]))
    sys.path.append(str(Path(__file__).parents[3] / "tests" / "bench"))
    importlib.import_module("loopback").main()
