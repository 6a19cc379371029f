"""Frees workers that could not be reached when their job ended, as soon as they are back."""

from __future__ import annotations

import threading
import time

from synergos.jobs import RunJob
from synergos.logs import get_logger
from synergos.ttp.workers import WorkerClient

# Seconds between two attempts: the first pause, doubled up to the last.
_PAUSE, _LONGEST = 2.0, 60.0

Combination = tuple[str, str, str, str]


class Freeing:
    """Closes sessions that were left open, in the background. A worker that never returns is tried once a minute."""

    def __init__(self) -> None:
        # Held during an attempt, so that none closes a session that is being opened anew.
        self._lock = threading.Lock()
        self._left: dict[tuple[str, Combination], tuple[WorkerClient, RunJob]] = {}
        self._at_work = False
        self._log = get_logger("ttp.freeing")

    def free(self, worker: WorkerClient, job: RunJob) -> None:
        """Close the session of the job's combination at a worker, now or later."""
        reason = worker.terminate(job)
        if reason is None:
            return
        self._log.warning("worker not freed yet", **_ids(worker, job), code=503, reason=reason)
        with self._lock:
            self._left[worker.participant_id, _combination(job)] = worker, job
            if not self._at_work:
                self._at_work = True
                threading.Thread(target=self._work, daemon=True, name="freeing").start()

    def forget(self, job: RunJob) -> None:
        """Leave the sessions of a combination alone: they are about to be opened anew."""
        with self._lock:
            for key in [key for key in self._left if key[1] == _combination(job)]:
                del self._left[key]

    def _work(self) -> None:
        pause = _PAUSE
        while True:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
            away: set[str] = set()
            for key in list(self._left):
                with self._lock:
                    if key in self._left and key[0] not in away:
                        worker, job = self._left[key]
                        if worker.terminate(job) is None:
                            self._log.info("worker freed", **_ids(worker, job), code=200)
                            del self._left[key]
                        else:
                            away.add(key[0])
            with self._lock:
                if not self._left:
                    self._at_work = False
                    return


def _ids(worker: WorkerClient, job: RunJob) -> dict[str, str]:
    return {"participant_id": worker.participant_id, **job.ids}


def _combination(job: RunJob) -> Combination:
    return job.collab_id, job.project_id, job.expt_id, job.run_id
