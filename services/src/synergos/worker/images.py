"""Images: files listed with their labels in a mapping.csv, brought to one colour and one size, as bytes on disk."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, field_validator

from synergos.errors import FeatureDrift, Invalid
from synergos.jobs import Action, Layout, Meta
from synergos.logs import get_logger
from synergos.worker import files, labels
from synergos.worker.labels import LABEL
from synergos.worker.prepared import Own, Prepared, Source, Told
from synergos.worker.tags import METADATA

MAPPING = "mapping.csv"
NAME = "image"
# Pixels that one image may have: what a decoder is ready to unpack from a small file is bounded by this.
_MAX_PIXELS = 50_000_000
_MAX_SIDE = 4096
# Orientations in EXIF: a camera stores pixels as the sensor lay, and says how to turn them.
_UPRIGHT, _ON_THEIR_SIDE = 1, range(5, 9)

log = get_logger("worker.images")


class Operations(BaseModel):
    """What metadata.json may ask for.

    Attributes:
        use_grayscale: one channel of brightness instead of red, green and blue.
        use_alpha: keep a channel of opacity (an image without one is opaque).
        image_size: [height, width] that every image is resized to.
        use_deepaugment: accepted as false only.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    use_grayscale: bool = True
    use_alpha: bool = False
    image_size: list[int] | None = None
    use_deepaugment: bool = False

    @field_validator("image_size", mode="before")
    @classmethod
    def _check_size(cls, size: Any) -> Any:
        sides = size if isinstance(size, list) else []
        if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _MAX_SIDE for side in sides):
            raise ValueError(f"has to be [height, width] in pixels, each from 1 to {_MAX_SIDE}")
        return size

    @property
    def mode(self) -> str:
        """Pillow's name of the colour."""
        return ("L" if self.use_grayscale else "RGB") + ("A" if self.use_alpha else "")


@dataclass(frozen=True)
class Images(Source):
    """Image files of one set, not decoded.

    Attributes:
        paths: one file per row.
        size: height and width of the stored set: the largest of its images.
    """

    action: Action
    frame: pd.DataFrame
    labels: list[str]
    y: NDArray[np.float64]
    schema: dict[str, str]
    paths: list[Path]
    operations: Operations
    size: tuple[int, int]
    dropped: int

    def counts(self) -> dict[str, int]:
        """Return nothing: pixels have no names."""
        return {}

    def own(self) -> Own:
        """Return the names of the labels."""
        return Own(y=self.labels)

    def tell(self, told: Told, meta: Meta) -> tuple[list[str], dict[str, Any]]:
        """Return size and colour."""
        height, width = self.size
        mode = self.operations.mode
        return [], {
            "pixel_height": height,
            "pixel_width": width,
            "color": mode,
            "channels": len(mode),
            "dropped_count": self.dropped,
        }

    def store(self, path: Path) -> bool:
        """Decode one image after the other into `path`: uint8, shape (rows, channels, height, width)."""
        shape = (len(self.operations.mode), *self.size)
        names = self.frame.index.get_level_values("file")
        pixels = (_decode(each, name, self.operations) for each, name in zip(self.paths, names, strict=True))
        write_padded(path, pixels, len(self.paths), shape)
        return True


@dataclass(frozen=True)
class Pixels(Prepared):
    """A stored set, read-only and not in memory.

    Attributes:
        path: where it is stored; a set in another shape is put beside it.
        X: uint8, shape (rows, channels, height, width).
    """

    action: Action
    labels: list[str]
    y: NDArray[np.float64]
    rows: pd.MultiIndex
    path: Path
    X: NDArray[np.uint8]

    def place(self, names: list[str], layout: Layout, keep: NDArray[np.bool_], meta: Meta) -> NDArray[np.uint8]:
        """Return the images, padded with 0 at the bottom and right to the layout's shape."""
        own = self.X.shape[1:]
        shape = tuple(layout.shape) or own
        if own[0] != shape[0]:
            raise FeatureDrift(
                f"Feature drift detected! Images of the {meta} set have {own[0]} channels, the aligned model takes "
                f"{shape[0]}: correct use_grayscale and use_alpha in metadata.json, or align and train again."
            )
        if own[1] > shape[1] or own[2] > shape[2]:
            raise FeatureDrift(
                f"Feature drift detected! Images of the {meta} set have up to {own[1]} x {own[2]} pixels, the aligned "
                f"model takes {shape[1]} x {shape[2]}: set image_size in metadata.json, or align and train again."
            )
        if own == shape and keep.all():
            return self.X
        path = self.path.with_name(f"aligned_{self.path.name}")
        # Every poll starts with an empty folder, so a file of this shape holds these images.
        if not (keep.all() and path.exists() and _load(path).shape == (len(keep), *shape)):
            # An open session keeps the file that it has, which only loses its name.
            fresh = path.with_suffix(".new")
            write_padded(fresh, (self.X[row] for row in np.flatnonzero(keep)), int(keep.sum()), shape)
            fresh.replace(path)
        return _load(path)


def write_padded(path: Path, images: Iterable[NDArray[np.uint8]], count: int, shape: tuple[int, ...]) -> None:
    """Write images of up to `shape` (channels, height, width) into one .npy file, holding one at a time.

    Written as an ordinary file, not through a memory map: there a full disk would kill the process.

    Raises:
        Invalid: the disk is full or the folder cannot be written.
    """
    needed, free = count * math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise Invalid(
            f"The worker cannot write {path}: {count} images of {shape[1]} x {shape[2]} pixels take "
            f"{needed // 1_000_000} MB, and {free // 1_000_000} MB are free. Set a smaller image_size, or free space."
        )
    try:
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_2_0(file, header)  # type: ignore[no-untyped-call]
            for image in images:
                canvas = np.zeros(shape, dtype=np.uint8)
                canvas[:, : image.shape[1], : image.shape[2]] = image
                file.write(canvas.data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise Invalid(
            f"The worker cannot write {path}: {error.strerror or error}. Free space or correct the folder's owner."
        ) from error


def load(
    root: Path, folders: Mapping[Meta, Sequence[Path]], action: Action, operations: Operations
) -> dict[Meta, Source]:
    """List and check the images of every set; they are decoded when they are stored.

    Args:
        root: data folder of the participant.
        folders: data sets per meta.

    Raises:
        Invalid: a mapping or an image that cannot be used; the message names file and row.
    """
    if operations.use_deepaugment:
        raise Invalid(
            "use_deepaugment is not offered: it never did anything, and images are trained on as they are. "
            "Set it to false or leave it out."
        )
    return {meta: _read_set(root, each, action, operations, meta) for meta, each in folders.items()}


def _load(path: Path) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _read_set(root: Path, folders: Sequence[Path], action: Action, operations: Operations, meta: Meta) -> Images:
    frame = pd.concat([_read_mapping(root, folder, action, meta) for folder in folders])
    named = ", ".join(files.shown(root, folder) for folder in folders)
    frame, dropped = labels.drop_unlabelled(frame, meta, named)
    paths = [root / name for name in frame.index.get_level_values("file")]
    y, names = labels.encode(frame, action)
    if operations.image_size:
        height, width = operations.image_size
    else:
        sizes = [_size(path, name) for path, name in zip(paths, frame.index.get_level_values("file"), strict=True)]
        height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    return Images(
        action=action,
        frame=frame,
        labels=names,
        y=y,
        schema={NAME: "uint8"} | ({LABEL: "float64" if action == "regress" else "category"} if names else {}),
        paths=paths,
        operations=operations,
        size=(height, width),
        dropped=dropped,
    )


def _read_mapping(root: Path, folder: Path, action: Action, meta: Meta) -> pd.DataFrame:
    """Return the labels that a mapping.csv gives to its images, one row per image."""
    path = folder / MAPPING
    shown = files.shown(root, path)
    if not path.is_file():
        raise Invalid(f"{shown} is missing: it lists the images with their labels under the header '{NAME},{LABEL}'.")
    cells = files.read_text_cells(path, shown)
    wanted = {NAME, LABEL}
    if set(cells) != wanted and not (meta == "predict" and set(cells) == {NAME}):
        # A first line of values must not get into the message.
        lack = f" (a predict set may lack {LABEL})" if meta == "predict" else ""
        raise Invalid(f"{shown}: the first line has to be '{NAME},{LABEL}'{lack}.")
    for row, name in enumerate(cells[NAME]):
        _check_file(folder, name, row, shown)
    if LABEL in cells:
        cells[LABEL] = labels.read(cells[LABEL], action, shown)
    first = cells.drop_duplicates(NAME)
    merged = cells.drop_duplicates()
    if len(merged) > len(first):
        name = merged[NAME][merged[NAME].duplicated()].iloc[0]
        rows = ", ".join(map(str, cells.index[cells[NAME] == name]))
        raise Invalid(
            f"{shown} lists {name!r} with different labels (rows {rows}, counted from 0): every image has one label."
        )
    if len(first) < len(cells):
        log.warning("images that are listed twice count once", file=shown, rows=len(cells) - len(first))
    present = {each.relative_to(folder).as_posix() for each in files.of_tag(folder, "*")}
    if extra := present - {*first[NAME], MAPPING, METADATA}:
        log.warning("files that are not listed are left out", file=shown, files=len(extra))
    parent = files.shown(root, folder)
    index = pd.MultiIndex.from_arrays([parent + "/" + first[NAME], first.index], names=["file", "row"])
    return first.drop(columns=NAME).set_axis(index)


def _check_file(folder: Path, name: str, row: int, shown: str) -> None:
    if not name:
        raise Invalid(f"{shown}: row {row} (counted from 0) names no image.")
    path = folder / name
    try:
        inside = path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        # No file can have this name.
        inside = False
    if not inside:
        raise Invalid(
            f"{shown}: {name!r} in row {row} (counted from 0) is no file beside it. "
            "Correct the name (upper and lower case count), or remove the row."
        )


def _size(path: Path, name: str) -> tuple[int, int]:
    """Return height and width without decoding, as `_decode` will find them."""
    with _opened(path, name) as image:
        return (image.width, image.height) if _orientation(image) in _ON_THEIR_SIDE else (image.height, image.width)


def _decode(path: Path, name: str, operations: Operations) -> NDArray[np.uint8]:
    """Return one image as bytes, shape (channels, height, width), upright; the first of an animation."""
    with _opened(path, name) as image:
        picture: Image.Image = image
        if _orientation(image) != _UPRIGHT:
            picture = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise Invalid(f"{name} has 32 bits per pixel and channel: convert it to 8 or 16 bits.")
        if operations.use_alpha:
            # Transparency of a palette survives only this way.
            picture = picture.convert("RGBA")
        picture = picture.convert(operations.mode)
        if operations.image_size:
            height, width = operations.image_size
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture)
        return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _orientation(image: Image.Image) -> int:
    """Return the orientation that EXIF tells, upright if it is missing or not readable."""
    with contextlib.suppress(Exception):
        value = image.getexif().get(ExifTags.Base.Orientation)
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return _UPRIGHT


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[Image.Image]:
    large = f"{name} has more than {_MAX_PIXELS // 1_000_000} million pixels: make it smaller."
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise Invalid(large)
            yield image
    except Invalid:
        raise
    except Image.DecompressionBombError:
        raise Invalid(large) from None
    except UnidentifiedImageError:
        raise Invalid(f"{name} is not an image, or in a format that cannot be read: use PNG or JPEG.") from None
    except Exception as error:
        # Decoders raise nearly anything on a broken file.
        raise Invalid(f"{name} is damaged: {error}.") from None
