"""A TTP's process over the engine double.

SYNERGOS_ROOT/trained gets a line per training; the one of the run that HOLD names never ends.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from grid_double import FakeEngine

from synergos.jobs import TrainJob, TrainResult, Watch
from synergos.ttp import __main__ as ttp


class Engine(FakeEngine):
    """Notes each training in a file."""

    def __init__(self, outputs: Path) -> None:
        super().__init__()
        self._log = outputs.parent / "trained"

    def warm_up(self) -> None:
        """Nothing has to be loaded."""

    def train(self, job: TrainJob, watch: Watch | None = None) -> TrainResult:
        """Report the rounds, then perhaps wait for ever."""
        result = super().train(job, watch)
        with self._log.open("a") as file:
            file.write(f"{job.run_id}\n")
        if job.run_id == os.environ.get("HOLD"):
            threading.Event().wait()
        return result


if __name__ == "__main__":
    ttp.GridEngine = Engine  # type: ignore[misc, assignment]
    ttp.main()
