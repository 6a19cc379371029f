"""Agreement on names, classes and scaling; models fitted to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synergos.errors import FeatureDrift, GridFailure, Invalid
from synergos.federation.alignment import Moments, Poll, agree, place, pool, union_labels
from synergos.jobs import METAS, Alignment, Layout

NAMES = st.lists(st.text(alphabet="abcd_0123", min_size=1, max_size=4), unique=True, max_size=8)
HEADER = st.fixed_dictionaries({"X": NAMES.map(sorted), "y": NAMES.map(sorted)})
POLL = st.dictionaries(st.sampled_from(METAS), HEADER, max_size=3)


def poll(headers: dict[str, Any], numeric: dict[str, Any] | None = None, category: tuple[str, ...] = ()) -> Poll:
    variables = {"num_variables": numeric or {}, "cat_variables": {column: {} for column in category}}
    return Poll.read("w", {"headers": headers, "metadata": {"train": {"features": variables}}})


def spread(own: list[str], spacers: list[int], width: int) -> list[str | None]:
    """Insert a gap at each spacer index in ascending order, as a worker does."""
    row: list[str | None] = list(own)
    for index in spacers:
        row.insert(index, None)
    assert len(row) == width
    return row


@given(st.dictionaries(st.sampled_from(["w1", "w2", "w3", "w4"]), POLL, min_size=1))
def test_every_row_gets_the_agreed_columns(parties: dict[str, dict[str, Any]]) -> None:
    polls = {name: poll(headers) for name, headers in parties.items()}
    layout = agree(polls)
    for name, headers in parties.items():
        alignment = place(polls[name], layout)
        for meta, header in headers.items():
            spacers = getattr(alignment, meta)
            # A label's place follows its class value, not its spelling, so compare in the agreed order.
            for own, gaps, names in (
                (header["X"], spacers.X, layout.X),
                (sorted(header["y"], key=layout.y.index), spacers.y, layout.y),
            ):
                if own:
                    row = spread(own, gaps, len(names))
                    assert [name for name in row if name is not None] == own
                    assert all(cell in (None, name) for cell, name in zip(row, names, strict=True))
                else:
                    assert gaps == []
    assert sorted(set(layout.X)) == layout.X
    assert len(layout.y) == len(set(layout.y))


def test_examples_of_the_original() -> None:
    leaf = [f"target_{i}" for i in range(1, 101)]
    without = lambda *gone: [name for i, name in enumerate(leaf) if i not in gone]  # noqa: E731
    features = sorted(str(i) for i in range(1, 65))
    polls = {
        "worker_1": poll({"train": {"X": features, "y": without(51)}, "evaluate": {"X": features, "y": without(6)}}),
        "worker_2": poll({"train": {"X": features, "y": leaf}, "evaluate": {"X": features, "y": without(6)}}),
    }
    layout = agree(polls)
    first, second = (place(polls[name], layout).model_dump() for name in polls)
    assert layout.y == leaf
    assert (first["train"]["y"], first["evaluate"]["y"]) == ([51], [6])
    assert (second["train"]["y"], second["evaluate"]["y"]) == ([], [6])
    assert first["train"]["X"] == second["evaluate"]["X"] == []

    columns = sorted(f"{name}_{i}" for name in ("competitiveness", "credibility", "flexibility") for i in range(3))
    polls = {
        "worker_1": poll({"train": {"X": columns}, "evaluate": {"X": columns[:7] + columns[8:]}}),
        "worker_2": poll({"train": {"X": columns}, "evaluate": {"X": columns[:8] + columns[9:]}}),
    }
    layout = agree(polls)
    assert place(polls["worker_1"], layout).evaluate.X == [7]
    assert place(polls["worker_2"], layout).evaluate.X == [8]

    for headers in ([["a", "c"], ["b", "d"], ["a", "d"]], [["t0", "t1"], ["t0"], ["t1", "t2"], ["t3"]]):
        names = agree({str(i): poll({"train": {"X": header}}) for i, header in enumerate(headers)}).X
        assert names == sorted({name for header in headers for name in header})


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["target_10", "target_9", "target_-1"], ["target_-1", "target_9", "target_10"]),
        (["target_2.5", "target_10"], ["target_2.5", "target_10"]),
        (["target_b", "target_10", "target_9"], ["target_10", "target_9", "target_b"]),
        (["target"], ["target"]),
    ],
)
def test_class_order(names: list[str], ordered: list[str]) -> None:
    assert union_labels([names]) == ordered


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), min_size=1, max_size=4))
def test_scaling_is_that_of_all_rows_together(parts: list[list[float]]) -> None:
    columns = [{"f": Moments(count=len(p), mean=np.mean(p), std=np.std(p))} for p in parts]
    mean, std = pool(["f", "one_hot"], columns)["f"]
    everything = np.concatenate([np.asarray(p) for p in parts])
    scale = max(1.0, np.abs(everything).max())
    assert mean == pytest.approx(everything.mean(), abs=1e-9 * scale)
    if everything.std() > 1e-6 * scale:
        assert std == pytest.approx(everything.std(), rel=1e-6)


def test_constant_column_keeps_a_deviation_of_one() -> None:
    columns = [{"f": Moments(count=rows, mean=1e9 + 0.1, std=0.0)} for rows in (3, 7)]
    assert pool(["f"], columns) == {"f": (pytest.approx(1e9 + 0.1), 1.0)}


def test_kind_of_a_column_must_agree() -> None:
    facts = {"count": 1, "mean": 0.0, "std": 1.0}
    polls = {
        "worker_1": poll({"train": {"X": ["sex"]}}, numeric={"sex": facts}),
        "worker_2": poll({"train": {"X": ["sex_0"]}}, category=("sex",)),
    }
    with pytest.raises(Invalid, match=r"'sex' is numeric at worker_1 .* category at worker_2"):
        agree(polls)


def test_a_level_is_not_taken_for_a_column_of_that_name() -> None:
    facts = {"count": 1, "mean": 0.0, "std": 1.0}
    polls = {
        "worker_1": poll({"train": {"X": ["sex_0"]}}, numeric={"sex_0": facts}),
        "worker_2": poll({"train": {"X": ["sex_0"]}}, category=("sex",)),
    }
    with pytest.raises(
        Invalid, match=r"'sex_0' is a numeric column at worker_1 .* category 'sex' at worker_2 .*rename"
    ):
        agree(polls)


def test_drift_names_what_is_new() -> None:
    layout = Layout(X=["a", "b"], y=["target_0", "target_1"])
    fine = place(poll({"train": {"X": ["a", "b"], "y": layout.y}, "predict": {"X": ["b"], "y": []}}), layout)
    assert fine == Alignment(predict={"X": [0], "y": []}, layout=layout)
    with pytest.raises(FeatureDrift, match=r"predict set has columns .*: c, d"):
        place(poll({"predict": {"X": ["a", "c", "d"]}}), layout)
    with pytest.raises(FeatureDrift, match=r"classes .*: target_7"):
        place(poll({"predict": {"X": ["a"], "y": ["target_7"]}}), layout)


def numeric(**facts: Any) -> dict[str, Any]:
    return {"headers": {}, "metadata": {"train": {"features": {"num_variables": {"a": facts}}}}}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {"headers": {"train": {"X": "abc"}}},
        {"headers": {}, "metadata": {"train": []}},
        {
            "headers": {},
            "metadata": {"train": {"features": {"num_variables": {"a": {"count": 1, "mean": "x", "std": 1}}}}},
        },
        {
            "headers": {},
            "metadata": {"train": {"features": {"num_variables": {"a": {"count": 1, "mean": 0, "std": -1}}}}},
        },
    ],
)
def test_unusable_poll_reply_names_the_participant(data: Any) -> None:
    with pytest.raises(GridFailure, match="worker_9 gave an unusable poll reply"):
        Poll.read("worker_9", data)


def told(meta: str = "train", **facts: Any) -> Poll:
    return Poll.read("w", {"headers": {meta: {"X": facts.pop("X", []), "y": []}}, "metadata": {meta: facts}})


def image(height: int, width: int, color: str = "L", **more: Any) -> Poll:
    return told(_type="image", pixel_height=height, pixel_width=width, color=color, **more)


def test_images_share_the_largest_height_and_width() -> None:
    polls = {"a": image(2, 5, "RGB"), "b": image(3, 4, "RGB"), "c": image(3, 5, "RGB")}
    layout = agree(polls)
    assert (layout.datatype, layout.shape, layout.X) == ("image", [3, 3, 5], [])
    assert layout.row_shape == (3, 3, 5)
    assert place(polls["a"], layout).train.X == [10, 11, 12, 13, 14]
    assert place(polls["b"], layout).train.X == [4, 9, 14]
    assert place(polls["c"], layout).train.X == place(polls["a"], layout).predict.X == []


def test_words_are_united_behind_the_bucket() -> None:
    polls = {
        "a": told(_type="text", X=["#other", "cat", "zoo"]),
        "b": told(_type="text", X=["#other", "ant", "cat"]),
    }
    layout = agree(polls)
    assert layout.X == ["#other", "ant", "cat", "zoo"]
    assert place(polls["a"], layout).train.X == [1]
    # A word that nobody knew counts as unknown.
    assert place(told("predict", _type="text", X=["#other", "bee"]), layout).predict.X == [1, 2, 3]


def test_rows_per_class_are_pooled() -> None:
    polls = {
        "a": Poll.read("a", {"headers": {"train": {"X": ["x"], "y": ["target_0", "target_1"]}},
                             "metadata": {"train": {"classes": {"target_0": 30, "target_1": 5}}}}),
        "b": Poll.read("b", {"headers": {"train": {"X": ["x"], "y": ["target_1", "target_2"]}},
                             "metadata": {"train": {"classes": {"target_1": 7}},
                                          "evaluate": {"classes": {"target_1": 99}}}}),
    }  # fmt: skip
    assert agree(polls).counts == {"target_0": 30, "target_1": 12}


@pytest.mark.parametrize(
    ("polls", "said"),
    [
        (
            {"worker_1": told(_type="tabular", X=["a"]), "worker_2": image(3, 3)},
            "same kind of data; here it is tabular at worker_1 (train), image at worker_2 (train)",
        ),
        (
            {"worker_1": image(3, 3, "RGB"), "worker_2": image(3, 3, "L")},
            "same colour; here it is RGB at worker_1 (train), L at worker_2 (train)",
        ),
        (
            {"worker_1": poll({"train": {"X": ["a"], "y": ["target_yes"]}})},
            "Only one class can be told from the labels: yes. A classification needs two or more classes",
        ),
    ],
)
def test_data_that_do_not_belong_together(polls: dict[str, Poll], said: str) -> None:
    with pytest.raises(Invalid) as refusal:
        agree(polls)
    assert said in refusal.value.message


def test_levels_fall_into_the_bucket_of_their_column_or_are_drift() -> None:
    def seen(*names: str) -> Poll:
        facts = {"features": {"cat_variables": {"sex": {}, "sex_at": {}}}}
        return Poll.read("w", {"headers": {"predict": {"X": names, "y": []}}, "metadata": {"predict": facts}})

    layout = Layout(X=["age", "sex_#other", "sex_0", "sex_at_1"], y=["target"])
    assert place(seen("age", "sex_7", "sex_8"), layout).predict.X == [2, 3]
    assert place(seen("age", "sex_0", "sex_at_1"), layout).predict.X == [1]
    with pytest.raises(FeatureDrift, match=r"columns .*: sex_at_2 \(a level of sex_at\), size\."):
        place(seen("age", "sex_at_2", "size"), layout)


@pytest.mark.parametrize(
    ("poll", "said"),
    [
        (
            told("predict", _type="image", pixel_height=9, pixel_width=2, color="L"),
            "up to 9 x 2 pixels .* 8 x 8. Align",
        ),
        (told("predict", _type="image", pixel_height=8, pixel_width=8, color="RGB"), "colour RGB; .* L. Convert"),
        (told("predict", X=["a"]), "is of kind tabular; the model was aligned for image"),
    ],
)
def test_images_that_drift(poll: Poll, said: str) -> None:
    with pytest.raises(FeatureDrift, match=said):
        place(poll, Layout(datatype="image", shape=[1, 8, 8], y=["target"]))


@pytest.mark.parametrize(
    "facts",
    [
        {"_type": "sound"},
        {"_type": "image"},
        {"_type": "image", "pixel_height": 3, "pixel_width": 3, "color": "P"},
        {"classes": {"target_0": -1}},
    ],
)
def test_unusable_facts_name_the_participant(facts: dict[str, Any]) -> None:
    with pytest.raises(GridFailure, match=r"worker_9 gave an unusable poll reply: metadata.train"):
        Poll.read("worker_9", {"headers": {}, "metadata": {"train": facts}})
