"""A process that logs: `python talker.py COUNT HOW [flags of a worker]`; HOW is how it ends: `exit`, `term` or `raise`.

It ends standard output with a line `latency <median> <99.9 %>`, in microseconds, of one call that logs.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from synergos import cli, logs, server

count, how, flags = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
logs.configure(cli.parse(cli.parser("worker"), flags), "worker")
log = logs.get_logger("talker")
taken = []
with logs.bound(collab_id="c", project_id="p", expt_id="e", run_id="r", trace_id="ab" * 16):
    for number in range(count):
        begin = time.perf_counter()
        log.info("round", round=number, seconds=0.004, train_loss=1 / (number + 1), code=200)
        taken.append(time.perf_counter() - begin)
taken.sort()
print("latency", *(round(1e6 * taken[int(len(taken) * part)], 1) for part in (0.5, 0.999)), flush=True)


async def app(scope: object, receive: object, send: object) -> None:
    """Refuse the lifespan, which is allowed, and answer nothing."""
    raise NotImplementedError


if how == "term":
    # As `docker stop` ends a service.
    server.serve([(app, 0)], host="127.0.0.1", started=lambda: os.kill(os.getpid(), signal.SIGTERM))
if how == "raise":
    raise ValueError("a defect of the program")
