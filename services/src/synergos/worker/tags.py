"""From a tag, a list of path tokens, to the one folder that it means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from synergos.errors import Invalid

METADATA = "metadata.json"
_SHOWN = 8


def folders(root: Path) -> list[Path]:
    """Return every folder below `root` that holds a metadata.json, relative to `root` and sorted."""
    return sorted(path.parent.relative_to(root) for path in root.rglob(METADATA))


def resolve(root: Path, tag: Sequence[str]) -> Path:
    """Return the folder that `tag` means.

    A folder fits if its path below `root` contains all tokens. Of several that fit, the one whose whole path is the
    tag, else the only one with the tokens side by side and in order, is meant.

    Args:
        root: data folder of the participant.
        tag: path tokens, for example `["abalone", "dataset", "data1", "train"]`.

    Returns:
        Absolute path below `root`.

    Raises:
        Invalid: no folder fits, or several do; the message lists what there is.
    """
    shown = "/".join(tag)
    for token in tag:
        if not token or token in (".", "..") or any(sign in token for sign in "/\\\0"):
            raise Invalid(
                f"Tag {list(tag)}: token {token!r} is not usable; a tag lists the names of folders one by one, "
                'for example ["abalone", "dataset", "data1", "train"].'
            )
    if not tag:
        raise Invalid("A tag is empty: it lists the names of the folders that lead to the data.")
    every = folders(root)
    fitting = [folder for folder in every if set(tag) <= set(folder.parts)]
    if not fitting:
        raise Invalid(f"Tag {shown!r} fits no data set. {_available(every, shown)}")
    meant = [folder for folder in fitting if folder.parts == tuple(tag)] or [
        folder for folder in fitting if _contains(folder.parts, tuple(tag))
    ]
    if len(meant) != 1:
        meant = fitting
    if len(meant) > 1:
        raise Invalid(f"Tag {shown!r} is ambiguous, it fits {_listed(meant)}: add tokens until only one is left.")
    folder = root / meant[0]
    if not folder.resolve().is_relative_to(root.resolve()):
        raise Invalid(f"Tag {shown!r} leads out of the data folder through a symbolic link.")
    return folder


def _contains(parts: tuple[str, ...], tokens: tuple[str, ...]) -> bool:
    return any(parts[start : start + len(tokens)] == tokens for start in range(len(parts) - len(tokens) + 1))


def _available(every: list[Path], shown: str) -> str:
    if not every:
        return f"No folder here holds a {METADATA}: is the participant's data mounted?"
    names = [folder.as_posix() for folder in every]
    near = difflib.get_close_matches(shown, names, n=3, cutoff=0.6)
    return f"Nearest: {', '.join(near)}." if near else f"Available: {_listed(every)}."


def _listed(found: list[Path]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(folder.as_posix() for folder in found[:_SHOWN]) + more
