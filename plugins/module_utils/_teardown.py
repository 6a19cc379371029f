# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a grid away from one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._converge import in_parallel
from ansible_collections.synergos.grid.plugins.module_utils._desired import COMMAND_LABEL
from ansible_collections.synergos.grid.plugins.module_utils._engine import Engine
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._plan import Snapshot, attached, grid_of, summary_name
from ansible_collections.synergos.grid.plugins.module_utils._state import State


class Teardown:
    """Removes everything that carries a grid's label or is in its record of folders, whatever fails in between."""

    def __init__(self, engine: Engine | None, state: State, grid: str, parallel: int) -> None:
        self.engine = engine
        self.state = state
        self.grid = grid
        self.parallel = parallel
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.remains: list[str] = []

    def run(self, keep_data: bool, check_mode: bool) -> None:
        there = self.engine.snapshot(self.grid) if self.engine else Snapshot()
        containers = [c for c in there.containers if self._is_own(c)]
        self._each("container", {summary_name(c): c["Id"] for c in containers}, self._remove_container, check_mode)
        data = {v["Name"]: v["Name"] for v in there.volumes if grid_of(v) == self.grid}
        own = {summary_name(c) for c in containers}
        networks = {}
        for network in (n for n in there.networks if grid_of(n) == self.grid):
            foreign = [name for name, _endpoint in attached(there, network) if name not in own]
            if foreign:
                name = network["Name"]
                self.remains.append(
                    f"network {name}: containers that are not of this grid are on it: {', '.join(foreign)}; "
                    f"disconnect them (docker network disconnect {name} …) and run again"
                )
            else:
                networks[network["Name"]] = network["Id"]
        self._each("network", networks, self._remove_network, check_mode)
        folders = {path: path for path in self.state.folders()}
        if keep_data:
            self.kept += [f"volume {name}" for name in data] + [f"folder {path}" for path in folders]
        else:
            self._each("volume", data, self._remove_volume, check_mode)
            self._folders(folders, check_mode)
        self._state_folder(keep_data or bool(self.remains), check_mode)

    def _is_own(self, summary: dict[str, Any]) -> bool:
        return self.grid in (grid_of(summary), (summary.get("Labels") or {}).get(COMMAND_LABEL))

    def _each(self, kind: str, things: dict[str, str], remove: Callable[[str], None], check_mode: bool) -> None:
        """Remove things (name: id) in parallel."""

        def one(name: str, identifier: str) -> Callable[[], None]:
            def act() -> None:
                try:
                    if not check_mode:
                        remove(identifier)
                    self.removed.append(f"{kind} {name}")
                except (GridError, OSError) as error:
                    self.remains.append(f"{kind} {name}: {error}")

            return act

        in_parallel(self.parallel, [one(name, identifier) for name, identifier in things.items()], self.remains)

    def _remove_container(self, identifier: str) -> None:
        assert self.engine
        self.engine.remove(identifier)

    def _remove_network(self, identifier: str) -> None:
        assert self.engine
        self.engine.remove_network(identifier)

    def _remove_volume(self, name: str) -> None:
        assert self.engine
        self.engine.remove_volume(name)

    def _folders(self, folders: Iterable[str], check_mode: bool) -> None:
        for path in folders:  # deepest first, so one after the other
            try:
                if check_mode or self.state.remove_folder(path):
                    self.removed.append(f"folder {path}")
                else:
                    self.kept.append(f"folder {path}")
            except (GridError, OSError) as error:
                self.remains.append(f"folder {path}: {error}")

    def _state_folder(self, keep_record: bool, check_mode: bool) -> None:
        try:
            if self.state.clear(keep_record, check_mode):
                self.removed.append(f"{'files below' if keep_record else 'folder'} {self.state.folder}")
        except OSError as error:
            self.remains.append(f"folder {self.state.folder}: {error}")
