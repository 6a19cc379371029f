"""Small image sets, written as a participant would have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw(height: int, width: int, seed: int, channels: int = 3) -> Image.Image:
    """Return random pixels."""
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write_set(
    root: Path, tag: str, images: Mapping[str, Image.Image | bytes], mapping: str | None, operations: Any = None
) -> list[str]:
    """Write files, mapping.csv and metadata.json; returns the tag."""
    folder = root / tag
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            image.save(path)
    folder.mkdir(parents=True, exist_ok=True)
    if mapping is not None:
        (folder / "mapping.csv").write_text(mapping)
    (folder / "metadata.json").write_text(json.dumps({"datatype": "image", "operations": operations or {}}))
    return tag.split("/")


def numbered(root: Path, tag: str, rows: int, size: tuple[int, int] = (4, 5), operations: Any = None) -> list[str]:
    """Write `rows` colour images, by turns of class `a` and `b`."""
    images = {f"{row}.png": draw(*size, row) for row in range(rows)}
    mapping = "image,target\n" + "".join(f"{row}.png,{'ab'[row % 2]}\n" for row in range(rows))
    return write_set(root, tag, images, mapping, operations)
