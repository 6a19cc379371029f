"""What a worker holds open between `initialise` and `terminate`: the data of one combination, ready for training."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synergos.errors import NotFound
from synergos.jobs import Action

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Split:
    """One meta's data in the aligned layout.

    Attributes:
        X: tables and texts: float32, shape (rows, features). Images: uint8, shape (rows, channels, height, width),
            which may be a read-only view of a file; a model sees value / 255 as float32, converted batch by batch.
        y: regression and up to two classes float32 (rows, 1); more classes int64 (rows,); None for unlabelled rows.
    """

    X: NDArray[np.float32] | NDArray[np.uint8]
    y: NDArray[Any] | None


@dataclass
class Session:
    """An initialised combination.

    Attributes:
        key: (collab_id, project_id, expt_id, run_id).
        token: secret that the data port asks for; made by the TTP for this initialisation.
        data: meta → split; metas without data are absent.
        record: called with (meta, y_pred, y_score) after inference; computes the metrics, writes the participant's
            files and returns {"statistics": {...}, "res_path": str}. y_pred: regression float (rows,), else class
            index int (rows,); y_score: regression and two classes float (rows, 1), more classes float (rows, classes).
        trace_id: of the work that the combination was initialised for.
        state: room for the training client, dropped with the session.
    """

    key: Key
    participant_id: str
    token: str
    action: Action
    data: Mapping[str, Split]
    record: Callable[[str, NDArray[Any], NDArray[Any]], dict[str, Any]]
    trace_id: str | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> dict[str, str | None]:
        """What every line about the session is logged with: combination, participant, trace."""
        names = ("collab_id", "project_id", "expt_id", "run_id", "participant_id", "trace_id")
        return dict(zip(names, (*self.key, self.participant_id, self.trace_id), strict=True))


class Sessions:
    """The open sessions of a worker, safe for use from several threads."""

    def __init__(self) -> None:
        self._open: dict[Key, Session] = {}
        self._lock = threading.Lock()

    def open(self, session: Session) -> None:
        """Register `session`, replacing one of the same combination."""
        with self._lock:
            self._open[session.key] = session

    def get(self, key: Key) -> Session:
        """Return the open session of `key` or raise `NotFound`."""
        with self._lock:
            if key not in self._open:
                raise NotFound(f"No session is open for {'/'.join(key)}: initialise it first.")
            return self._open[key]

    def close(self, key: Key) -> bool:
        """Drop the session of `key`; False if none was open."""
        with self._lock:
            return self._open.pop(key, None) is not None

    def keys(self) -> list[Key]:
        """Return the combinations that are open."""
        with self._lock:
            return list(self._open)
