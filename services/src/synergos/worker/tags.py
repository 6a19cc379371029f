"""From tags, lists of path tokens, to the folders that they mean."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from synergos.errors import Invalid
from synergos.jobs import METAS, Meta, Tags

METADATA = "metadata.json"
_SHOWN = 8


def resolve(root: Path, tags: Tags) -> dict[Meta, list[Path]]:
    """Return the folders that `tags` mean; metas without tags are absent.

    A folder is a data set if it holds a metadata.json. It fits a tag, for example
    `["abalone", "dataset", "data1", "train"]`, if its path below `root` contains all tokens. Of several that fit, the
    one whose whole path is the tag, else the only one with the tokens side by side and in order, is meant.

    Args:
        root: data folder of the participant; the results are below it.

    Raises:
        Invalid: no train tag is given, a tag fits no folder or several, or two tags of a meta mean the same; the
            message lists what there is.
    """
    if not tags.train:
        raise Invalid("No train tag is given: the training set decides how all sets are prepared.")
    every = sorted(path.parent.relative_to(root) for path in root.rglob(METADATA))
    found: dict[Meta, list[Path]] = {}
    for meta in METAS:
        if given := getattr(tags, meta):
            found[meta] = [_resolve(root, every, tag) for tag in given]
            if len(set(found[meta])) < len(given):
                raise Invalid(f"The {meta} tags name one data set twice: {given}.")
    return found


def _resolve(root: Path, every: Sequence[Path], tag: Sequence[str]) -> Path:
    shown = "/".join(tag)
    for token in tag:
        if not token or token in (".", "..") or any(sign in token for sign in "/\\\0"):
            raise Invalid(
                f"Tag {list(tag)}: token {token!r} is not usable; a tag lists the names of folders one by one, "
                'for example ["abalone", "dataset", "data1", "train"].'
            )
    if not tag:
        raise Invalid("A tag is empty: it lists the names of the folders that lead to the data.")
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


def _available(every: Sequence[Path], shown: str) -> str:
    if not every:
        return f"No folder here holds a {METADATA}: is the participant's data mounted?"
    names = [folder.as_posix() for folder in every]
    near = difflib.get_close_matches(shown, names, n=3, cutoff=0.6)
    return f"Nearest: {', '.join(near)}." if near else f"Available: {_listed(every)}."


def _listed(found: Sequence[Path]) -> str:
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(folder.as_posix() for folder in found[:_SHOWN]) + more
