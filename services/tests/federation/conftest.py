"""Workers on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import hypothesis
import pytest
import torch
from worker_double import Worker

from synergos.federation.sessions import Split

# Several workers share this process, and its models are tiny.
torch.set_num_threads(1)
# A busy machine is no failure, and the checkout may be read-only.
hypothesis.settings.register_profile("federation", deadline=None, database=None)
hypothesis.settings.load_profile("federation")


@pytest.fixture
def workers() -> Iterator[Callable[..., list[Worker]]]:
    """A function that starts workers: `workers({"worker_1": {"train": split}, …})`."""
    started: list[Worker] = []

    def start(data: dict[str, dict[str, Split]]) -> list[Worker]:
        for participant_id, splits in data.items():
            started.append(Worker(participant_id, splits))
            started[-1].start()
        return started

    yield start
    with ThreadPoolExecutor(len(started) or 1) as pool:  # each takes a moment to notice
        list(pool.map(Worker.stop, started))
