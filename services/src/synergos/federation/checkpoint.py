"""What a run needs to go on after its process was killed, as files that are read without trust.

`rounds.jsonl` has one line per finished round, `state` everything else. Both stand in one folder, which is deleted when
the run has ended.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import ValidationError

from synergos.federation import codec
from synergos.federation.aggregation import State
from synergos.jobs import RoundProgress

_STATE, _ROUNDS = "state", "rounds.jsonl"
_SERVER, _LOCAL = "server/", "local/"


@dataclass
class Snapshot:
    """A run between two rounds.

    Attributes:
        weights: global weights after the last round.
        best: weights of the round with the lowest loss on the `evaluate` sets, if there are such.
        rounds: what each round brought; their number is that of the finished rounds.
        server: what the algorithm remembers.
        schedules: node id -> state of its learning-rate schedule.
        local: last own weights of participants, as far as the next round may not bring newer ones.
    """

    weights: ArrayRecord
    best: ArrayRecord | None = None
    rounds: list[RoundProgress] = field(default_factory=list)
    server: State = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    local: dict[str, ArrayRecord] = field(default_factory=dict)


class Checkpoint:
    """The snapshot of one run in one folder.

    Args:
        folder: for this checkpoint alone.
        fingerprint: of everything that decides how the run goes on; a checkpoint with another is of no use.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def load(self, fresh: Snapshot) -> Snapshot:
        """Return the stored snapshot, or `fresh` if there is none of this run. Raises OSError."""
        try:
            content = codec.decode((self._folder / _STATE).read_bytes())
            config = content.pop("config")
            assert isinstance(config, ConfigRecord)
            if config["fingerprint"] != self._fingerprint:
                raise ValueError("another run")
            lines = (self._folder / _ROUNDS).read_text().splitlines()[: int(str(config["rounds"]))]
            snapshot = Snapshot(
                weights=content.pop("weights"),  # type: ignore[arg-type]
                best=content.pop("best", None),  # type: ignore[arg-type]
                rounds=[RoundProgress.model_validate_json(line) for line in lines],
                schedules=json.loads(str(config["schedules"])),
            )
            if len(snapshot.rounds) != config["rounds"]:
                raise ValueError("rounds are missing")
            for name, record in content.items():
                assert isinstance(record, ArrayRecord)
                if name.startswith(_SERVER):
                    arrays = {key: array.numpy() for key, array in record.items()}
                    snapshot.server[name.removeprefix(_SERVER)] = arrays
                else:
                    snapshot.local[name.removeprefix(_LOCAL)] = record
        except (FileNotFoundError, ValueError, KeyError, AssertionError, ValidationError, codec.Malformed):
            self.delete()
            self._folder.mkdir(parents=True)
            return fresh
        # A line beyond the state is of a round that has to be taken again.
        (self._folder / _ROUNDS).write_text("".join(f"{line}\n" for line in lines))
        return snapshot

    def save(self, snapshot: Snapshot) -> None:
        """Store the snapshot, whose last round is new since the last time. Raises OSError.

        A killed process leaves the old or the new one: what the kernel has taken survives it. After a power failure
        the checkpoint may be unreadable, and the run starts anew.
        """
        with (self._folder / _ROUNDS).open("a") as file:
            file.write(snapshot.rounds[-1].model_dump_json() + "\n")
        config: dict[str, Any] = {
            "fingerprint": self._fingerprint,
            "rounds": len(snapshot.rounds),
            "schedules": json.dumps(snapshot.schedules),
        }
        content = RecordDict({"config": ConfigRecord(config), "weights": snapshot.weights})
        if snapshot.best is not None:
            content["best"] = snapshot.best
        for attribute, arrays in snapshot.server.items():
            content[_SERVER + attribute] = _record(arrays)
        for participant_id, weights in snapshot.local.items():
            content[_LOCAL + participant_id] = weights
        part = self._folder / f"{_STATE}.part"
        with part.open("wb") as state:
            state.writelines(codec.pieces(content))
        part.replace(self._folder / _STATE)

    def delete(self) -> None:
        """Remove the checkpoint, if there is one."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _record(arrays: dict[str, Any]) -> ArrayRecord:
    record = ArrayRecord()
    for name, values in arrays.items():
        record[name] = codec.to_array(values)
    return record
