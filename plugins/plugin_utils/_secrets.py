# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of a grid: made at their first use, one file each in a folder of the control node that is its user's own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.synergos.grid.plugins.module_utils._definition import SECRET, secret_mark
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError
from ansible_collections.synergos.grid.plugins.module_utils._rabbitmq import password_hash

ALPHABET = string.ascii_letters + string.digits  # needs no quoting anywhere
LENGTH = 48
LEAST = 32
FORMS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "sha256": lambda plain: hashlib.sha256(plain.encode()).hexdigest(),
    "rabbitmq": password_hash,
}
PLACEHOLDER = "(made at first use)".ljust(LENGTH, ".")


class Store:
    """The secrets of one grid. In check mode one that does not exist yet reads as a placeholder.

    `folder` empty is the grid's own below `$XDG_STATE_HOME` or `~/.local/state`.
    """

    def __init__(self, grid: str, folder: str, check_mode: bool) -> None:
        state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        self.folder = Path(folder or f"{state}/synergos/{grid}").expanduser()
        self.check_mode = check_mode
        if not self.folder.is_absolute():
            raise GridError(f"folder of secrets: expected an absolute path, got {str(self.folder)!r}")

    def get(self, name: str) -> str:
        """Return a secret; the text has no line end. GridError if its file cannot be used."""
        if not SECRET.fullmatch(name):
            raise GridError(f"secret {name!r}: expected a name of small letters, digits and '_'")
        path = self.folder / name
        try:
            if not path.exists():
                if self.check_mode:
                    return PLACEHOLDER
                self._make(path)
            self._private(self.folder)
            self._private(path)
            text = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise GridError(
                f"secret {name}: {error.filename or path}: {error.strerror}; correct it, or set synergos_secrets_dir "
                "to a folder of your own"
            ) from error
        if len(text) < LEAST or len(text.split()) != 1:
            raise GridError(
                f"secret {name}: {path} must hold one word of {LEAST} characters or more; write such a one, or remove "
                "the file to have it made"
            )
        return text

    def remove(self) -> bool:
        """Remove all secrets of the grid; say whether there were any."""
        if not self.folder.is_dir():
            return False
        if not self.check_mode:
            shutil.rmtree(self.folder)
            with contextlib.suppress(OSError):  # other grids have theirs there
                self.folder.parent.rmdir()
        return True

    def _make(self, path: Path) -> None:
        """Write a new secret in one step: two runs at the same time end with the same one."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=self.folder)  # readable by its owner only
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write("".join(secrets.choice(ALPHABET) for _ in range(LENGTH)) + "\n")
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            Path(fresh).unlink()

    @staticmethod
    def _private(path: Path) -> None:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise GridError(f"{path} can be read by other users (mode {mode:04o}): chmod go= {path}")


def fill(definitions: Sequence[Any], store: Store) -> tuple[list[Any], list[str]]:
    """Put secrets in place of their marks in the files of container definitions that are well formed.

    Returns new definitions, without `secrets`, and every text that must not be shown.
    """
    hidden: list[str] = []
    filled = []
    for definition in definitions:
        files = []
        for file in definition.get("files") or []:
            wanted: Mapping[str, Any] = file.get("secrets") or {}
            content = file["content"]
            for mark, secret in wanted.items():
                plain = store.get(secret["name"])
                text = FORMS[secret.get("form") or "plain"](plain)
                content = content.replace(secret_mark(mark), text)
                hidden += [plain, text]
            plain_file = {key: value for key, value in file.items() if key != "secrets"}
            files.append({**plain_file, "content": content, "secret": True} if wanted else plain_file)
        filled.append({**definition, "files": files} if files else definition)
    return filled, list(dict.fromkeys(hidden))
