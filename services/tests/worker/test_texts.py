"""Texts: cleaning, the shared vocabulary with its bucket, and counts as a model sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heart import Write

from synergos.jobs import Layout, Tags
from synergos.worker.datasets import Preparation, aligned
from synergos.worker.texts import Cleaner, Operations

Prepare = Callable[..., Preparation]
BARE = {"keep_stopwords": True, "lemmatize": False}


@pytest.fixture
def write_text(write: Write) -> Callable[..., list[str]]:
    def write_text(tag: str, csv: str, **operations: Any) -> list[str]:
        return write(tag, csv, None, {"datatype": "text", "operations": operations})

    return write_text


@pytest.mark.parametrize(
    ("operations", "text", "words"),
    [
        ({}, "The mice were running, weren't they? Caf\u00e9s &amp; 3 bars!", "mouse run cafe bar"),
        (BARE, "We can't, won't and don\u2019t: it's John's.", "we cannot will not and do not it john"),
        ({**BARE, "keep_contractions": True}, "It's John's", "it's john's"),
        (BARE, "<p class='x'>Fish<br/>chips</p><script>var x;</script> a < b", "fish chips a b"),
        ({**BARE, "keep_html": True}, "<b>Fish</b>", "b fish b"),
        ({**BARE, "keep_punctuations": True}, "Wait... what?!", "wait . . . what ? !"),
        ({**BARE, "keep_numbers": True}, "room 101", "room 101"),
        (BARE, "room 101, 3rd floor, x_1", "room 3rd floor x"),
        ({**BARE, "strip_accents": None}, "Caf\u00e9", "caf\u00e9"),
        ({**BARE, "strip_accents": "ascii"}, "Caf\u00e9 \u65e5\u672c", "cafe"),
        (
            BARE,
            "\u65e5\u672c \u0395\u03bb\u03bb\u03ac\u03b4\u03b1",
            "\u65e5\u672c \u03b5\u03bb\u03bb\u03b1\u03b4\u03b1",
        ),
        (
            {**BARE, "strip_accents": None},
            "\u0905\u091a\u094d\u091b\u093e, \u0e19\u0e48\u0e32",
            "\u0905\u091a\u094d\u091b\u093e \u0e19\u0e48\u0e32",
        ),
        ({**BARE, "spellcheck": True}, "a beautful hous inthe gardn", "a beautiful house in the garden"),
        ({}, "", ""),
    ],
)
def test_cleaning(operations: dict[str, Any], text: str, words: str) -> None:
    assert Cleaner(Operations(**operations))(text) == words


def test_words_are_agreed_and_the_rest_goes_to_the_bucket(write_text: Any, prepare: Prepare) -> None:
    csv = "review,mood\napple apple pear,good\napple plum,bad\n,good\npear target,bad\n"
    prepared = prepare(
        Tags(train=[write_text("t/train", csv)], predict=[write_text("t/predict", "words\nkiwi apple\n")])
    )
    X = ["#other", "apple", "pear", "plum", "target"]
    assert prepared.headers["train"].model_dump() == {"X": X, "y": ["target_bad", "target_good"]}
    assert prepared.headers["predict"].model_dump() == {"X": X, "y": []}
    assert prepared.schemas["train"] == {"text": "object", "target": "category"}
    assert prepared.metadata["train"] == {
        "src_count": 4,
        "_type": "text",
        "word_count": 4,
        "sparsity": 1 - 6 / 16,
        "representation": 7 / 16,
        "dropped_count": 0,
        "classes": {"target_bad": 2, "target_good": 2},
    }

    layout = Layout(datatype="text", X=["#other", "apple", "fig", "pear"], y=["target_bad", "target_good"])
    sets = aligned(prepared, layout, "classify")
    train = sets["train"].split
    assert train.X.dtype == np.float32
    counts = np.log1p([[0, 2, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]])
    lengths = np.linalg.norm(counts, axis=1, keepdims=True)
    assert np.allclose(train.X, counts / np.where(lengths > 0, lengths, 1))
    assert train.y is not None and train.y.tolist() == [[1], [0], [1], [0]]
    assert np.allclose(sets["predict"].split.X, [[0.5**0.5, 0.5**0.5, 0, 0]])
    assert sets["predict"].rows.tolist() == [("t/predict/data.csv", 0)]


@pytest.mark.parametrize(
    ("operations", "names"),
    [
        ({"max_features": 2}, ["kiwi", "plum"]),
        ({"max_df": 2}, ["fig", "kiwi"]),
        ({"max_df": 0.5}, ["fig", "kiwi"]),
        ({"max_df": 1.0}, ["fig", "kiwi", "plum"]),
        ({"max_df": 1}, ["kiwi"]),
    ],
)
def test_bounds_of_the_vocabulary(write_text: Any, prepare: Prepare, operations: Any, names: list[str]) -> None:
    csv = "text,target\nplum kiwi kiwi kiwi kiwi,a\nplum fig,b\nplum fig,a\n,b\n"
    prepared = prepare(Tags(train=[write_text("t/train", csv, **operations)]))
    assert ["#other", *names] == prepared.headers["train"].X


def test_words_that_few_rows_share_stay_private(write_text: Any, prepare: Prepare) -> None:
    rows = [f"{words},{'ab'[row % 2]}" for row, words in enumerate(["plum smith"] * 3 + ["kiwi plum"] * 4 + [""])]
    train = write_text("t/train", "text,target\n" + "\n".join(rows) + "\n")
    tags = Tags(train=[train])
    assert prepare(tags, minimum_rows=3).headers["train"].X == ["#other", "kiwi", "plum", "smith"]
    prepared = prepare(tags, minimum_rows=4)
    assert prepared.headers["train"].X == ["#other", "kiwi", "plum"]
    layout = Layout(datatype="text", X=["#other", "plum", "smith"], y=["target_a", "target_b"])
    X = aligned(prepared, layout, "classify")["train"].split.X
    assert (X[[0, 3]] > 0).tolist() == [[False, True, True], [True, True, False]]
    assert prepare(tags, minimum_rows=4, layout=layout).headers["train"].X == ["#other", "kiwi", "plum", "smith"]
    # More rows elsewhere give no new names: they would be drift for a trained model.
    more = Tags(train=[train], predict=[write_text("t/predict", "text\n" + "smith\n" * 9)])
    assert prepare(more, minimum_rows=4).headers["predict"].X == ["#other", "kiwi", "plum"]


def test_labels_and_numbers_as_text(write_text: Any, prepare: Prepare, root: Path) -> None:
    csv = 'text,target\nNA,NA\n"a, ""quoted"" word",null\nnan,\n'
    prepared = prepare(Tags(train=[write_text("t/train", csv, **BARE)]))
    assert prepared.headers["train"].X == ["#other", "a", "na", "quoted", "word"]
    assert prepared.headers["train"].y == ["target_NA", "target_null"]
    assert prepared.metadata["train"]["dropped_count"] == 1
    sets = aligned(prepared, Layout(), "classify")
    assert sets["train"].classes == ["NA", "null"] and sets["train"].split.X.shape == (2, 5)
    numbers = Tags(train=[write_text("n/train", "text,stars\ngood,4.5\nbad,1\n")])
    own = aligned(prepare(numbers, "regress"), Layout(), "regress")["train"]
    assert own.split.y is not None and own.split.y.tolist() == [[4.5], [1.0]]
