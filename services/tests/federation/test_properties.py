"""Alignment over generated schemas: names, kinds, orders, missing columns, empty sets, one to six participants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synergos.errors import Invalid
from synergos.federation.alignment import OTHER, Poll, agree, fit_model, place
from synergos.federation.layers import probe
from synergos.jobs import METAS, Layout, Spacers

Draw = Any
NAME = st.text(alphabet="ab_é0#- ", min_size=1, max_size=3)
LEVELS = st.lists(st.text(alphabet="ab01", min_size=1, max_size=2), unique=True, max_size=4)
# A schema: column -> None for numbers, or the levels of a category.
SCHEMA = st.dictionaries(NAME, st.none() | LEVELS, max_size=6)
CLASSES = st.lists(st.integers(-2, 11).map(str) | st.sampled_from(["no", "yes"]), unique=True, max_size=5)


def some(draw: Draw, items: list[Any]) -> list[Any]:
    """Return some of `items`, in any order."""
    kept = [item for item in items if draw(st.booleans())]
    return list(draw(st.permutations(kept)))


def names_of(column: str, levels: list[str] | None) -> list[str]:
    return [column] if levels is None else [f"{column}_{level}" for level in [*levels, OTHER]]


def header(draw: Draw, schema: dict[str, list[str] | None], classes: list[str]) -> dict[str, Any]:
    X: list[str] = []
    for column in some(draw, list(schema)):
        levels = schema[column]
        X += names_of(column, levels and some(draw, levels))
    return {"X": X, "y": [f"target_{name}" for name in some(draw, classes)]}


@st.composite
def tables(draw: Draw) -> dict[str, Poll]:
    schema, classes = draw(SCHEMA), draw(CLASSES)
    flat = [name for column, levels in schema.items()
            for name in names_of(column, levels)]  # fmt: skip
    assume(len(flat) == len(set(flat)))
    facts = {
        "features": {
            "num_variables": {c: {"count": 1, "mean": 0, "std": 1} for c, levels in schema.items() if levels is None},
            "cat_variables": {c: {} for c, levels in schema.items() if levels is not None},
        }
    }
    polls = {}
    for number in range(draw(st.integers(1, 6))):
        metas = [meta for meta in METAS if draw(st.booleans())]
        data = {"headers": {m: header(draw, schema, classes) for m in metas}, "metadata": dict.fromkeys(metas, facts)}
        polls[f"worker_{number}"] = Poll.read(f"worker_{number}", data)
    return polls


@st.composite
def texts(draw: Draw) -> dict[str, Poll]:
    words, classes = draw(st.lists(NAME, unique=True, max_size=8)), draw(CLASSES)
    polls = {}
    for number in range(draw(st.integers(1, 6))):
        own = [OTHER, *some(draw, [word for word in words if word != OTHER])]
        metas = [meta for meta in METAS if draw(st.booleans())]
        y = [f"target_{name}" for name in some(draw, classes)]
        data = {
            "headers": {m: {"X": own, "y": y} for m in metas},
            "metadata": {m: {"_type": "text"} for m in metas},
        }
        polls[f"worker_{number}"] = Poll.read(f"worker_{number}", data)
    return polls


@st.composite
def pictures(draw: Draw) -> dict[str, Poll]:
    color, size = draw(st.sampled_from(["L", "LA", "RGB", "RGBA"])), st.integers(1, 7)
    polls = {}
    for number in range(draw(st.integers(1, 6))):
        metas = ["train", *(meta for meta in METAS[1:] if draw(st.booleans()))]
        facts = {m: {"_type": "image", "pixel_height": draw(size), "pixel_width": draw(size), "color": color}
                 for m in metas}  # fmt: skip
        polls[f"worker_{number}"] = Poll.read("w", {"headers": {m: {"X": [], "y": ["target"]} for m in metas},
                                                     "metadata": facts})  # fmt: skip
    return polls


def agreed(polls: dict[str, Poll]) -> Layout:
    try:
        return agree(polls)
    except Invalid as refusal:
        assume("Only one class" not in refusal.message)
        raise


def insert(columns: list[str], spacers: list[int]) -> list[str | None]:
    """Insert a gap at each position in ascending order, as the original's workers do."""
    row: list[str | None] = list(columns)
    for index in spacers:
        assert index <= len(row)
        row.insert(index, None)
    return row


def check_names(own: list[str], spacers: list[int], names: list[str]) -> None:
    if not own:
        assert spacers == []
        return
    ordered = sorted(own, key=names.index)
    row = insert(ordered, spacers)
    assert len(row) == len(names)
    assert all(cell in (None, name) for cell, name in zip(row, names, strict=True))
    assert [cell for index, cell in enumerate(row) if index not in set(spacers)] == ordered


@given(st.one_of(tables(), texts()))
def test_columns_and_classes(polls: dict[str, Poll]) -> None:
    layout = agreed(polls)
    assert len(layout.X) == len(set(layout.X))
    assert len(layout.y) == len(set(layout.y))
    if layout.datatype == "text":
        assert layout.X[0] == OTHER
        assert layout.X[1:] == sorted(layout.X[1:])
    else:
        assert sorted(layout.X) == layout.X
    told = [h for poll in polls.values() for h in poll.headers.values()]
    assert set(layout.X) - {OTHER} == {name for h in told for name in h.X} - {OTHER}
    assert set(layout.y) == {name for h in told for name in h.y}
    for poll in polls.values():
        alignment = place(poll, layout)
        assert alignment.layout == layout
        for meta in METAS:
            if meta in poll.headers:
                spacers: Spacers = getattr(alignment, meta)
                check_names(poll.headers[meta].X, spacers.X, layout.X)
                check_names(poll.headers[meta].y, spacers.y, layout.y)
            else:
                assert getattr(alignment, meta) == Spacers()


@settings(max_examples=50)
@given(tables(), st.randoms())
def test_who_registers_first_makes_no_difference(polls: dict[str, Poll], random: Any) -> None:
    layout = agreed(polls)
    order = list(polls)
    random.shuffle(order)
    assert agree({name: polls[name] for name in order}) == layout


@given(pictures())
def test_pixels(polls: dict[str, Poll]) -> None:
    layout = agreed(polls)
    channels, height, width = layout.shape
    for poll in polls.values():
        alignment = place(poll, layout)
        for meta, facts in poll.metadata.items():
            plane = np.arange(1, 1 + facts.pixel_height * facts.pixel_width)
            padded = np.zeros((height, width), dtype=int)
            padded[: facts.pixel_height, : facts.pixel_width] = plane.reshape(facts.pixel_height, facts.pixel_width)
            spacers = getattr(alignment, meta).X
            assert insert(plane.tolist(), spacers) == [value or None for value in padded.ravel().tolist()]
            np.testing.assert_array_equal(np.delete(padded.ravel(), spacers), plane)
    assert channels == {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[next(iter(polls.values())).metadata["train"].color]


HIDDEN = st.integers(1, 5)


@settings(max_examples=40)
@given(st.one_of(tables(), texts(), pictures()), HIDDEN, HIDDEN, HIDDEN, st.sampled_from(["", "softmax", "sigmoid"]))
def test_a_fitted_model_takes_what_was_agreed(
    polls: dict[str, Poll], takes: int, hidden: int, gives: int, activation: str
) -> None:
    layout = agreed(polls)
    assume(layout.datatype == "image" or layout.X)
    action = "classify" if len(layout.y) > 1 else "regress"
    model = [
        {"l_type": "Flatten", "structure": {}},
        {"l_type": "Linear", "structure": {"in_features": takes, "out_features": hidden}, "activation": "relu"},
        {"l_type": "Linear", "structure": {"in_features": takes, "out_features": gives}, "activation": activation},
    ]
    fitted = fit_model(model, layout, action)  # type: ignore[arg-type]
    network, width = probe(fitted, layout.row_shape)
    assert width == (len(layout.y) if len(layout.y) > 2 else 1)
    assert fitted[1]["structure"]["out_features"] == hidden
    assert (network.final == "softmax") == (width > 1)
    assert fit_model(fitted, layout, action) == fitted  # type: ignore[arg-type]


def test_the_order_of_a_layout_is_by_value() -> None:
    headers = {"train": {"X": ["b", "a"], "y": ["target_10", "target_9"]}}
    assert agree({"w": Poll.read("w", {"headers": headers})}).y == ["target_9", "target_10"]
    with pytest.raises(Invalid):
        agree({"w": Poll.read("w", {"headers": {"train": {"X": ["a"], "y": ["target_1"]}}})})
