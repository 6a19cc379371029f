"""Image sets: what a model gets to see of the files, and what is kept out of memory."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pictures import draw, numbered, write_set
from PIL import ExifTags, Image

from synergos.errors import FeatureDrift, Invalid
from synergos.jobs import Layout, Tags
from synergos.worker.datasets import Preparation, aligned

Prepare = Callable[..., Preparation]
AB = ["target_a", "target_b"]


def layout(*shape: int) -> Layout:
    return Layout(datatype="image", shape=list(shape), y=AB)


def test_grey_by_default_and_listed_order(root: Path, prepare: Prepare) -> None:
    images = {"b.png": draw(4, 5, 1), "sub/a.jpg": draw(4, 5, 2), "unlisted.png": draw(9, 9, 3)}
    tag = write_set(root, "s/train", images, "image,target\nsub/a.jpg,7.0\nb.png,10\n")
    prepared = prepare(Tags(train=[tag]))
    assert prepared.headers["train"].model_dump() == {"X": [], "y": ["target_7", "target_10"]}
    assert prepared.metadata["train"] == {
        "src_count": 2,
        "_type": "image",
        "pixel_height": 4,
        "pixel_width": 5,
        "color": "L",
        "channels": 1,
        "dropped_count": 0,
        "classes": {"target_7": 1, "target_10": 1},
    }
    own = aligned(prepared, Layout(datatype="image", shape=[1, 4, 5], y=["target_7", "target_10"]), "classify")["train"]
    X = own.split.X
    assert isinstance(X, np.memmap) and not X.flags.writeable and X.dtype == np.uint8
    assert np.array_equal(X[1, 0], np.asarray(Image.open(root / "s/train/b.png").convert("L")))
    assert own.rows.tolist() == [("s/train/sub/a.jpg", 0), ("s/train/b.png", 1)]
    assert own.split.y is not None and own.split.y.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("grey", "alpha", "mode"),
    [(True, False, "L"), (True, True, "LA"), (False, False, "RGB"), (False, True, "RGBA")],
)
def test_colours_as_declared(root: Path, prepare: Prepare, grey: bool, alpha: bool, mode: str) -> None:
    picture = draw(3, 2, 1, channels=4)
    palette = draw(3, 2, 2).quantize(4)
    files = {"a.png": picture, "b.gif": palette, "c.png": draw(3, 2, 3, channels=1)}
    mapping = "image,target\na.png,a\nb.gif,b\nc.png,b\n"
    operations = {"use_grayscale": grey, "use_alpha": alpha}
    prepared = prepare(Tags(train=[write_set(root, "s/train", files, mapping, operations)]))
    assert (prepared.metadata["train"]["color"], prepared.metadata["train"]["channels"]) == (mode, len(mode))
    X = aligned(prepared, layout(len(mode), 3, 2), "classify")["train"].split.X
    expected = np.asarray(picture.convert(mode)).reshape(3, 2, len(mode))
    assert np.array_equal(X[0], expected.transpose(2, 0, 1))
    if alpha:
        assert (X[1:, -1] == 255).all()


def test_sixteen_bits_become_eight(root: Path, prepare: Prepare) -> None:
    deep = Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16))
    tag = write_set(root, "s/train", {"a.png": deep, "b.tif": deep}, "image,target\na.png,a\nb.tif,b\n")
    X = aligned(prepare(Tags(train=[tag])), layout(1, 1, 3), "classify")["train"].split.X
    assert X.tolist() == [[[[0, 1, 255]]]] * 2


def test_photographs_are_turned_as_their_exif_says(root: Path, prepare: Prepare) -> None:
    picture = draw(3, 2, 1, channels=1)
    files: dict[str, Image.Image | bytes] = {}
    for orientation in (1, 3, 6, 8, 99):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        buffer = io.BytesIO()
        picture.save(buffer, "png", exif=exif)
        files[f"{orientation}.png"] = buffer.getvalue()
    buffer = io.BytesIO()
    picture.save(buffer, "png", exif=b"Exif\0\0no exif at all")
    files["broken.png"] = buffer.getvalue()
    mapping = "image,target\n" + "".join(f"{name},{name}\n" for name in files)
    prepared = prepare(Tags(train=[write_set(root, "s/train", files, mapping)]))
    assert (prepared.metadata["train"]["pixel_height"], prepared.metadata["train"]["pixel_width"]) == (3, 3)
    X = aligned(prepared, Layout(datatype="image", shape=[1, 3, 3]), "classify")["train"].split.X[:, 0]
    pixels = np.asarray(picture)
    for row in (0, 4, 5):
        assert np.array_equal(X[row, :, :2], pixels)
    assert np.array_equal(X[1, :, :2], np.rot90(pixels, 2))
    assert np.array_equal(X[2, :2], np.rot90(pixels, -1))
    assert np.array_equal(X[3, :2], np.rot90(pixels))


def test_sizes_are_padded_at_the_bottom_and_right(root: Path, prepare: Prepare) -> None:
    files = {"a.png": draw(2, 5, 1, channels=1), "b.png": draw(4, 3, 2, channels=1)}
    tag = write_set(root, "s/train", files, "image,target\na.png,a\nb.png,b\n")
    prepared = prepare(Tags(train=[tag]))
    assert [prepared.metadata["train"][side] for side in ("pixel_height", "pixel_width")] == [4, 5]
    for height, width in ((4, 5), (6, 7)):
        X = aligned(prepared, layout(1, height, width), "classify")["train"].split.X
        expected = np.zeros((2, 1, height, width), dtype=np.uint8)
        expected[0, 0, :2, :5] = np.asarray(files["a.png"])
        expected[1, 0, :4, :3] = np.asarray(files["b.png"])
        assert np.array_equal(X, expected) and isinstance(X, np.memmap)


def test_image_size_resizes(root: Path, prepare: Prepare) -> None:
    files = {"a.png": draw(20, 10, 1), "b.png": draw(7, 9, 2)}
    operations = {"image_size": [8, 6], "use_grayscale": False}
    tag = write_set(root, "s/train", files, "image,target\na.png,a\nb.png,b\n", operations)
    X = aligned(prepare(Tags(train=[tag])), layout(3, 8, 6), "classify")["train"].split.X
    assert np.array_equal(X[0].transpose(1, 2, 0), np.asarray(files["a.png"].resize((6, 8), Image.Resampling.BILINEAR)))


def test_a_set_is_never_in_memory(root: Path, prepare: Prepare) -> None:
    size, rows = (200, 200), 60
    flat = Image.new("RGB", size)
    files = {f"{row}.png": flat for row in range(rows)}
    mapping = "image,target\n" + "".join(f"{row}.png,{'ab'[row % 2]}\n" for row in range(rows))
    tags = Tags(train=[write_set(root, "s/train", files, mapping, {"use_grayscale": False})])
    whole = rows * 3 * 200 * 200
    tracemalloc.start()
    try:
        prepared = prepare(tags)
        for shape in ((3, 200, 200), (3, 201, 200)):
            X = aligned(prepared, layout(*shape), "classify")["train"].split.X
            assert X.shape == (rows, *shape)
        assert tracemalloc.get_traced_memory()[1] < whole / 2
    finally:
        tracemalloc.stop()


def test_open_data_outlives_a_new_alignment(root: Path, prepare: Prepare) -> None:
    tags = Tags(train=[numbered(root, "s/train", 4)])
    prepared = prepare(tags)
    wide = aligned(prepared, layout(1, 6, 6), "classify")["train"].split.X
    before = wide.copy()
    stored = Path(prepared.exports["train"]["X"]).with_name("aligned_preprocessed_X_train.npy")
    written = stored.stat().st_ino
    assert np.array_equal(aligned(prepared, layout(1, 6, 6), "classify")["train"].split.X, before)
    assert stored.stat().st_ino == written
    wider = aligned(prepared, layout(1, 7, 7), "classify")["train"].split.X
    numbered(root, "s/train", 6, size=(2, 2))
    prepare(tags)
    assert wider.shape == (4, 1, 7, 7) and np.array_equal(wide, before)


def test_unlabelled_sets_and_missing_labels(root: Path, prepare: Prepare) -> None:
    images = {f"{row}.png": draw(2, 2, row) for row in range(3)}
    train = write_set(root, "s/train", images, "image,target\n0.png,a\n1.png,\n2.png,b\n")
    predict = write_set(root, "s/predict", images, "image\n2.png\n0.png\n2.png\n")
    prepared = prepare(Tags(train=[train], predict=[predict]))
    assert prepared.metadata["train"]["dropped_count"] == 1
    sets = aligned(prepared, layout(1, 2, 2), "classify")
    assert sets["train"].rows.tolist() == [("s/train/0.png", 0), ("s/train/2.png", 2)]
    assert sets["predict"].split.y is None
    # Listed twice with the same label (none), the image counts once.
    assert sets["predict"].rows.tolist() == [("s/predict/2.png", 0), ("s/predict/0.png", 1)]


def test_rows_of_withheld_classes_are_left_out(root: Path, prepare: Prepare) -> None:
    images = {f"{row}.png": draw(2, 2, row) for row in range(7)}
    mapping = "image,target\n" + "".join(f"{row}.png,{'caabbab'[row]}\n" for row in range(7))
    prepared = prepare(Tags(train=[write_set(root, "s/train", images, mapping)]), minimum_rows=3)
    assert prepared.metadata["train"]["classes"] == {"target_a": 3, "target_b": 3}
    own = aligned(prepared, layout(1, 2, 2), "classify")["train"]
    everything = aligned(prepared, Layout(shape=[1, 2, 2], y=[*AB, "target_c"]), "classify")["train"]
    assert [len(each.split.X) for each in (own, everything)] == [6, 7]
    assert np.array_equal(own.split.X, everything.split.X[1:])
    assert own.rows.get_level_values("row").tolist() == [1, 2, 3, 4, 5, 6]


def test_a_set_that_does_not_fit_the_disk_is_not_begun(
    root: Path, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = Tags(train=[numbered(root, "s/train", 6, operations={"image_size": [1000, 1000]})])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    with pytest.raises(Invalid, match="6 images of 1000 x 1000 pixels take 6 MB, and 5 MB are free"):
        prepare(tags)


def test_numbers_as_labels_and_several_tags(root: Path, prepare: Prepare) -> None:
    one = write_set(root, "s/one", {"a.png": draw(2, 2, 1)}, "image,target\na.png,1.5\n")
    two = write_set(root, "s/two", {"a.png": draw(3, 2, 2)}, "target,image\n-2,a.png\n")
    prepared = prepare(Tags(train=[one, two]), "regress")
    own = aligned(prepared, Layout(datatype="image", shape=[1, 3, 2], y=["target"]), "regress")["train"]
    assert own.split.y is not None and own.split.y.tolist() == [[1.5], [-2.0]]
    assert own.rows.tolist() == [("s/one/a.png", 0), ("s/two/a.png", 0)]


@pytest.mark.parametrize(
    ("shape", "fragment"),
    [
        ((3, 4, 5), "Images of the train set have 1 channels, the aligned model takes 3"),
        ((1, 3, 5), "have up to 4 x 5 pixels, the aligned model takes 3 x 5: set image_size"),
    ],
)
def test_images_that_the_model_does_not_take(root: Path, prepare: Prepare, shape: Any, fragment: str) -> None:
    prepared = prepare(Tags(train=[numbered(root, "s/train", 4)]))
    with pytest.raises(FeatureDrift) as caught:
        aligned(prepared, layout(*shape), "classify")
    assert fragment in caught.value.message
