# SPDX-License-Identifier: GPL-3.0-or-later
"""A grid's state folder on the engine: the files that containers read, and the record of folders that the grid made.

```
<state_dir>/<grid>/            0700
    manifest.json              folders made for binds: path -> [device, inode, kind]
    files/<container>/<path>   mounted read-only at <path>
    lock
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.synergos.grid.plugins.module_utils._definition import File
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError


@dataclass(frozen=True)
class StoredFile:
    """A file as it is on disk; `changed` is its modification time in seconds since the epoch."""

    content: str
    mode: int
    changed: float


class State:
    def __init__(self, state_dir: str, grid: str) -> None:
        self.parent = Path(state_dir)
        self.folder = self.parent / grid
        self._files = self.folder / "files"
        self._manifest = self.folder / "manifest.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep two runs from changing one grid at the same time."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = (self.folder / "lock").open("w")
        except OSError as error:
            raise GridError(
                f"state folder {self.folder}: {error.strerror}; run with become, or set state_dir to a folder this "
                "user may write"
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise GridError(
                    f"another run is changing this grid ({self.folder}/lock); wait for it and run again"
                ) from None
            yield

    # Files

    def path_of(self, container: str, file: File) -> str:
        return f"{self._files}/{container}{file.path}"

    def stored(self) -> dict[str, StoredFile]:
        """Every file on disk, by its path on the engine."""
        found = {}
        for path in self._files.rglob("*") if self._files.is_dir() else ():
            if path.is_file():
                status = path.stat()
                content = path.read_bytes().decode(errors="replace")  # read_text would change line ends
                found[str(path)] = StoredFile(content, stat.S_IMODE(status.st_mode), status.st_mtime)
        return found

    def write(self, path: str, file: File) -> None:
        """Put a file in place in one step, so that a container never reads half of it."""
        target = Path(path)
        if target.is_dir():  # Docker makes a folder where the source of an old-style bind is missing
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._replace(target, file.content, file.mode)

    def remove(self, path: str) -> None:
        Path(path).unlink()
        self._prune(Path(path).parent, self._files)

    # Folders

    def make_folder(self, path: str, owner: tuple[int, int]) -> None:
        """Make a folder with its parents and record each, so that teardown can remove exactly these.

        Parents get the owner of the folder that they are made in.
        """
        missing = [Path(path)]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        above = missing[-1].parent.stat()
        for folder in reversed(missing):
            kind, (user, group) = "parent", (above.st_uid, above.st_gid)
            if folder == missing[0]:
                kind, (user, group) = "content", owner
            try:
                folder.mkdir()
                status = folder.stat()
                self._record({**self._recorded(), str(folder): [status.st_dev, status.st_ino, kind]})
                if (status.st_uid, status.st_gid) != (user, group):
                    os.chown(folder, user, group)
            except OSError as error:
                raise GridError(
                    f"folder {folder}: {error.strerror} (owner {user}:{group}); run with become, or make it yourself"
                ) from error

    def folders(self) -> list[str]:
        """Recorded folders that are still the ones the grid made, deepest first."""
        found = []
        for path, (device, inode, _kind) in self._recorded().items():
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) == (device, inode):
                    found.append(path)
        return sorted(found, key=lambda path: path.count("/"), reverse=True)

    def remove_folder(self, path: str) -> bool:
        """Remove a recorded folder: its content too if it was made for a bind, else only if nothing else is in it."""
        if self._recorded()[path][2] == "content":
            for below, _folders, _files in os.walk(path):
                if os.path.ismount(below):
                    raise GridError(f"folder {path}: something is mounted on {below}; unmount it and run again")
            shutil.rmtree(path)
            return True
        try:
            Path(path).rmdir()
        except OSError:
            return False
        return True

    def clear(self, keep_record: bool, check_mode: bool) -> bool:
        """Remove the state folder, or all of it but the record of folders; say whether there was anything to remove."""
        if keep_record and self._recorded():
            there = [path for path in self.folder.iterdir() if path != self._manifest]
            for path in there if not check_mode else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            return any(path.name != "lock" for path in there)
        if not self.folder.is_dir():
            return False
        if not check_mode:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # other grids live there
                self.parent.rmdir()
        return True

    def exists(self) -> bool:
        return self.folder.is_dir()

    def _recorded(self) -> dict[str, list]:  # type: ignore[type-arg]
        try:
            return json.loads(self._manifest.read_text())["folders"]  # type: ignore[no-any-return]
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError) as error:
            raise GridError(f"{self._manifest} cannot be read ({error}); repair it or remove it by hand") from error

    def _record(self, folders: dict[str, list]) -> None:  # type: ignore[type-arg]
        self._replace(self._manifest, json.dumps({"folders": folders}, indent=2), 0o600)

    @staticmethod
    def _replace(target: Path, content: str, mode: int) -> None:
        fresh = target.with_name(f".{target.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content)
        fresh.chmod(mode)
        fresh.replace(target)

    @staticmethod
    def _prune(folder: Path, stop: Path) -> None:
        while folder != stop.parent:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def expand(source: str, match: str) -> list[str]:
    """Folders below `source` that match the pattern, relative to it, in order."""
    return sorted(str(path.relative_to(source)) for path in Path(source).glob(match) if path.is_dir())
