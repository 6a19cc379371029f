# SPDX-License-Identifier: GPL-3.0-or-later
"""The image catalogue: one folder per image, read on the control node, named by the hash of its content."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from ansible_collections.synergos.grid.plugins.module_utils._errors import GridError

REPOSITORY = "synergos"


@dataclass(frozen=True)
class Definition:
    """One image: its parent in the catalogue or the root file system it starts from, and its build context."""

    name: str
    parent: str | None
    root: dict[str, str] | None
    files: dict[str, bytes]


def load(folder: Path) -> dict[str, Definition]:
    """Read every image below `folder`; paths under `include` are relative to the folder that contains it."""
    definitions = {}
    for path in sorted(folder.glob("*/image.yml")):
        definitions[path.parent.name] = _definition(path, folder.parent)
    if not definitions:
        raise GridError(f"{folder} holds no image: there is no <name>/image.yml")
    for definition in definitions.values():
        if definition.parent is not None and definition.parent not in definitions:
            raise GridError(
                f"image {definition.name}: from: {definition.parent} is not in the catalogue ({_names(definitions)})"
            )
    return definitions


def replacements(definitions: Mapping[str, Definition], replace: Mapping[str, Any]) -> dict[str, str]:
    """Check the user's choice of ready images and return name → reference."""
    references = {}
    for name, choice in replace.items():
        if name not in definitions:
            raise GridError(f"synergos_images: there is no image {name}; the catalogue has {_names(definitions)}")
        if (
            not isinstance(choice, Mapping)
            or set(choice) != {"image"}
            or not isinstance(choice["image"], str)
            or not choice["image"]
        ):
            raise GridError(f"synergos_images.{name} must be {{image: <reference>}}, not {choice!r}")
        references[name] = choice["image"]
    return references


def select(definitions: Mapping[str, Definition], required: Iterable[str], replaced: Mapping[str, str]) -> list[str]:
    """The names to have on the engine, parents first. The parents of a replaced image are not needed."""
    ordered: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise GridError(f"images derive from each other in a circle: {' → '.join((*path, name))}")
        parent = definitions[name].parent
        if parent is not None and name not in replaced:
            visit(parent, (*path, name))
        if name not in ordered:
            ordered.append(name)

    for name in required:
        if name not in definitions:
            raise GridError(
                f"unknown image {name}: neither in the catalogue ({_names(definitions)}) nor a full reference such as "
                "registry.example.org/name:tag"
            )
        visit(name, ())
    return ordered


def references(
    definitions: Mapping[str, Definition], ordered: Iterable[str], replaced: Mapping[str, str]
) -> dict[str, str]:
    """Name → reference, for `ordered`, parents first. Only its files and its parent's reference name a built image."""
    found: dict[str, str] = {}
    for name in ordered:
        definition = definitions[name]
        parent = found.get(definition.parent or "", "")
        found[name] = replaced.get(name) or f"{REPOSITORY}/{name}:{content_hash(definition.files, parent)}"
    return found


def content_hash(files: Mapping[str, bytes], parent: str) -> str:
    """Twelve hexadecimal digits over paths, contents and the parent's reference: modes do not survive packaging."""
    digest = hashlib.sha256(parent.encode())
    for path in sorted(files):
        digest.update(f"\0{path}\0{hashlib.sha256(files[path]).hexdigest()}".encode())
    return digest.hexdigest()[:12]


def context(files: Mapping[str, bytes]) -> bytes:
    """The build context as a tar archive, the same for the same files: Docker's layer cache looks at modes too."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(files):
            entry = tarfile.TarInfo(path)
            entry.size = len(files[path])
            entry.mode = 0o755 if files[path].startswith(b"#!") else 0o644
            archive.addfile(entry, io.BytesIO(files[path]))
    return buffer.getvalue()


def _definition(path: Path, base: Path) -> Definition:
    name = path.parent.name
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise GridError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(settings, dict) or set(settings) - {"from", "root", "include"}:
        raise GridError(f"{path}: the keys are from (or root) and include, not {settings!r}")
    parent, root = settings.get("from"), settings.get("root")
    if (parent is None) == (root is None) or (root is not None and set(root) != {"image", "suite"}):
        raise GridError(
            f"{path}: give either from: <image of the catalogue> or root: {{image: <reference>, suite: <Debian suite>}}"
        )
    files = _gather(path.parent, path.parent)
    if "Dockerfile" not in files:
        raise GridError(f"image {name} has no Dockerfile")
    for include in settings.get("include", []):
        if PurePosixPath(include).is_absolute() or ".." in PurePosixPath(include).parts:
            raise GridError(f"{path}: include: {include} must be a path below {base}")
        if not (base / include).exists():
            raise GridError(f"{path}: include: {base / include} does not exist")
        added = _gather(base / include, base)
        if files.keys() & added.keys():
            raise GridError(f"{path}: include: {include} hides a file of the image's folder")
        files.update(added)
    return Definition(name=name, parent=parent, root=root, files=files)


def _gather(start: Path, base: Path) -> dict[str, bytes]:
    """Relative path → content of `start`, a file or everything below a folder, without what tools leave behind."""
    candidates = [start] if start.is_file() else start.rglob("*")
    return {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in candidates
        if path.is_file() and not any(_is_leftover(part) for part in path.relative_to(base).parts)
    }


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".egg-info", ".swp", "~"))


def _names(definitions: Mapping[str, Definition]) -> str:
    return ", ".join(sorted(definitions))
