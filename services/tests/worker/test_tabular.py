"""Preparation of tables: what comes out of good files, and what is said about bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from heart import HEART, Write, heart

from synergos.errors import FeatureDrift, Invalid, SynergosError
from synergos.jobs import Action, Layout, Meta, Tags
from synergos.worker import tabular
from synergos.worker.datasets import Preparation, aligned
from synergos.worker.tags import resolve

Prepare = Callable[..., Preparation]
SIMPLE = {"a": "float64", "c": "category", "target": "category"}


def load(root: Path, tags: Tags, action: Action) -> dict[Meta, Any]:
    return dict(tabular.load(root, resolve(root, tags), action))


def test_one_hot_columns_are_sorted_and_rows_are_kept(root: Path, write: Write, prepare: Prepare) -> None:
    csv = "c,target,a\nM,1,5\nF,0,6\nF,0,6\nI,1,7\n"
    tags = Tags(train=[write("d/train", csv, SIMPLE)])
    table = load(root, tags, "classify")["train"]
    assert table.features == ["a", "c_F", "c_I", "c_M"]
    assert table.X.tolist() == [[5, 0, 0, 1], [6, 1, 0, 0], [6, 1, 0, 0], [7, 0, 1, 0]]
    assert (table.labels, table.y.tolist()) == (["target_0", "target_1"], [[0, 1], [1, 0], [1, 0], [0, 1]])
    assert list(table.rows) == [("d/train/data.csv", row) for row in range(4)]
    assert prepare(tags).metadata["train"] == {
        "src_count": 4,
        "_type": "tabular",
        "features": {
            "cat_variables": {"c": {"datatype": "category", "count": 4, "labels": ["F", "I", "M"], "unique": 3}},
            "num_variables": {"a": {"datatype": "float64", "count": 4, "mean": 6.0, "std": np.sqrt(0.5)}},
            "misc_variables": {},
        },
        "dropped_count": 0,
        "imputed_count": 0,
        "classes": {"target_0": 2, "target_1": 2},
    }


def test_levels_written_as_floats_are_the_same_levels(root: Path, write: Write) -> None:
    one = write("d/one", "c,a,target\n1,1,0\n10,2,1\n2,3,1\n", SIMPLE)
    other = write("d/two", "c,a,target\n1.0,1,0.0\n,2,1.0\n007,2,1.0\n", SIMPLE)
    table = load(root, Tags(train=[one, other]), "classify")["train"]
    assert table.features == ["a", "c_007", "c_1", "c_10", "c_2"]
    assert table.labels == ["target_0", "target_1"]
    assert table.rows[3] == ("d/two/data.csv", 0)


def test_blanks_and_byte_order_marks_do_not_matter(root: Path, write: Write) -> None:
    csv = '\ufeffa , c,target\n\n 1, F ,0\n2 ,"  ",1 \n3,F,0\n'
    table = load(root, Tags(train=[write("d/train", csv, SIMPLE)]), "classify")["train"]
    assert table.features == ["a", "c_F"] and table.labels == ["target_0", "target_1"]
    assert table.frame["a"].tolist() == [1, 2, 3]
    assert (table.filled["c"], [row for _, row in table.rows]) == (2, [0, 1, 2])


def test_classes_are_ordered_by_number_if_they_are_numbers(root: Path, write: Write) -> None:
    schema = {"a": "float64", "target": "int32"}
    table = load(root, Tags(train=[write("d/t", "a,target\n1,10\n2,2\n3,-1\n", schema)]), "classify")["train"]
    assert table.labels == ["target_-1", "target_2", "target_10"]
    words = write("d/w", "a,target\n1,10\n2,2\n3,b\n", {"a": "float64", "target": "category"})
    assert load(root, Tags(train=[words]), "classify")["train"].labels == ["target_10", "target_2", "target_b"]


def test_a_column_without_any_value_is_left_out(root: Path, write: Write) -> None:
    csv = "a,fbs,c,target\n1,,F,0\n2,?,M,1\n"
    for schema in (SIMPLE, {**SIMPLE, "fbs": "category"}, {**SIMPLE, "fbs": "float64"}):
        table = load(root, Tags(train=[write("d/train", csv, schema)]), "classify")["train"]
        assert table.features == ["a", "c_F", "c_M"]
        assert set(table.schema) == {"a", "c", "target"}


def test_cells_that_are_no_numbers_are_completed(root: Path, write: Write) -> None:
    lines = [f"{x},{2 * x},{'F' if x < 20 else 'M'},{x % 2}" for x in range(40)]
    lines[10] = "10,twenty,F,0"
    lines[30] = "30,inf,,0"
    csv = "x,y,c,target\n" + "\n".join(lines)
    schema = {"x": "float64", "y": "int32", "c": "category", "target": "category"}
    tags = Tags(train=[write("d/train", csv, schema)])
    table = load(root, tags, "classify")["train"]
    assert table.filled == {"c": 39, "x": 40, "y": 38}
    filled = table.frame["y"].tolist()
    assert abs(filled[10] - 20) <= 10 and abs(filled[30] - 60) <= 20
    assert table.frame["y"].dtype == np.int64
    assert table.frame["c"].iloc[30] == "M"
    assert np.array_equal(table.X, load(root, tags, "classify")["train"].X)


def test_evaluation_rows_are_completed_from_the_training_rows(root: Path, write: Write) -> None:
    train = "\n".join(f"{x},{100 * (x > 5)},u,0" for x in range(60))
    schema = {"x": "float64", "y": "float64", "c": "category", "target": "category"}
    tags = Tags(
        train=[write("d/train", "x,y,c,target\n" + train, schema)],
        evaluate=[write("d/evaluate", "x,y,c,target\n50,7,v,0\n50,,v,0\n1,,,1\n", schema)],
        predict=[write("d/predict", "x,y,c,target\n50,,,\n", schema)],
    )
    tables = load(root, tags, "classify")
    assert tables["evaluate"].frame["y"].round().tolist() == [7, 100, 0]
    assert tables["evaluate"].frame["c"].tolist() == ["v", "v", "u"]
    # Empty in this set, but known from training: cells are missing, not the column.
    assert tables["predict"].features == ["c_u", "x", "y"]
    assert tables["predict"].frame["y"].round().tolist() == [100]


def test_rows_without_a_label_are_left_out_of_training_only(root: Path, write: Write, prepare: Prepare) -> None:
    csv = "a,c,target\n1,F,0\n2,M,\n3,F,1\n"
    tags = Tags(train=[write("d/train", csv, SIMPLE)], predict=[write("d/predict", csv, SIMPLE)])
    tables = load(root, tags, "classify")
    assert [row for _, row in tables["train"].rows] == [0, 2]
    assert tables["train"].dropped == 1
    assert tables["predict"].y.tolist() == [[1, 0], [0, 0], [0, 1]]
    own = aligned(prepare(tags), Layout(X=["a", "c_F", "c_M"], y=["target_0", "target_1"]), "classify")["predict"]
    assert own.split.y is None
    assert own.truth.tolist() == [0, -1, 1]


@pytest.mark.parametrize("csv", ["a,c\n1,F\n2,M\n", "a,c,target\n1,F,\n2,M,\n"])
@pytest.mark.parametrize("action", ["classify", "regress"])
@pytest.mark.parametrize("declared", [True, False])
def test_prediction_needs_no_labels(write: Write, prepare: Prepare, csv: str, action: Any, declared: bool) -> None:
    schema = {**SIMPLE, "target": "int32"}
    train = write("d/train", "a,c,target\n1,F,0\n2,M,1\n", schema)
    if not declared:
        del schema["target"]
    prepared = prepare(Tags(train=[train], predict=[write("d/predict", csv, schema)]), action)
    assert prepared.headers["predict"].y == []
    names = ["target"] if action == "regress" else ["target_0", "target_1"]
    own = aligned(prepared, Layout(X=["a", "c_F", "c_M"], y=names), action)["predict"]
    assert own.split.y is None and len(own.truth) == 2


def test_figures_of_few_rows_stay_private(write: Write, prepare: Prepare) -> None:
    train = write("d/train", heart(30, 1), HEART)
    tags = Tags(train=[train], predict=[write("d/predict", heart(4, 2), HEART)])
    metadata = prepare(tags, minimum_rows=5).metadata
    assert metadata["predict"]["features"]["num_variables"]["age"] == {"datatype": "int32", "count": 4}
    assert "mean" in metadata["train"]["features"]["num_variables"]["age"]


def test_csvs_of_a_tag_and_its_subfolders_are_joined(root: Path, write: Write) -> None:
    tag = write("d/train", "a,c,target\n1,F,0\n", SIMPLE)
    write("d/train/more", "target,a,c\n1,2,M\n", SIMPLE)
    (root / "d/train/more/metadata.json").unlink()
    write("d/train/other", "a,c,target\n9,Z,0\n", SIMPLE)
    table = load(root, Tags(train=[tag]), "classify")["train"]
    assert list(table.rows) == [("d/train/data.csv", 0), ("d/train/more/data.csv", 0)]
    assert table.features == ["a", "c_F", "c_M"]


def test_a_feature_that_one_tag_lacks_is_completed(root: Path, write: Write) -> None:
    one = write("d/one", "a,b,target\n1,1,0\n2,2,1\n", {"a": "float64", "b": "int32", "target": "int8"})
    two = write("d/two", "a,target\n3,0\n", {"a": "float64", "target": "int32"})
    table = load(root, Tags(train=[one, two]), "classify")["train"]
    assert table.features == ["a", "b"]
    assert np.isfinite(table.X).all()
    assert table.schema == {"a": "float64", "b": "int32", "target": "int64"}


CSV = "a,c,target\n1,F,0\n2,M,1\n"


def test_sets_that_contradict_each_other_are_named(root: Path, write: Write) -> None:
    category = write("d/category", CSV, SIMPLE)
    number = write("d/number", "a,c,target\n1,5,0\n", {**SIMPLE, "c": "int32"})
    for tags, fragments in [
        (Tags(train=[category, number]), ["d/number/schema.json: column 'c' is int32, but category elsewhere"]),
        (Tags(train=[category], predict=[number]), ["'c' is a category in the train set", "number in the predict set"]),
        (Tags(train=[number], predict=[category]), ["'c' is a category in the predict set", "number in the train set"]),
        (Tags(train=[number], predict=[category, category[::-1]]), ["predict tags name one data set twice"]),
        (Tags(evaluate=[category]), ["No train tag"]),
    ]:
        with pytest.raises(Invalid) as caught:
            load(root, tags, "classify")
        assert all(fragment in caught.value.message for fragment in fragments), caught.value.message


def test_alignment_inserts_and_scales(write: Write, prepare: Prepare) -> None:
    layout = Layout(
        X=["a", "b", "c_F", "c_I", "c_M"], y=["target_0", "target_1"], scaling={"a": (1.0, 2.0), "b": (3, 1)}
    )
    split = aligned(prepare(Tags(train=[write("d/train", CSV, SIMPLE)])), layout, "classify")["train"].split
    assert split.X.tolist() == [[0, 0, 1, 0, 0], [0.5, 0, 0, 0, 1]] and split.X.dtype == np.float32
    assert split.y is not None
    assert split.y.tolist() == [[0.0], [1.0]] and split.y.dtype == np.float32


def test_more_than_two_classes_are_indexes(write: Write, prepare: Prepare) -> None:
    layout = Layout(X=["a", "c_F", "c_M"], y=["target_-1", "target_0", "target_1"])
    own = aligned(prepare(Tags(train=[write("d/train", CSV, SIMPLE)])), layout, "classify")["train"]
    assert own.classes == ["-1", "0", "1"]
    assert own.split.y is not None and own.split.y.tolist() == [1, 2] and own.split.y.dtype == np.int64


@pytest.mark.parametrize(
    ("layout", "error", "fragment"),
    [
        (Layout(X=["a", "c_F"]), FeatureDrift, "train set has columns that the aligned model does not know: c."),
        (Layout(X=["c_F", "c_M"]), FeatureDrift, "columns that the aligned model does not know: a."),
        (Layout(y=["target_0"]), FeatureDrift, "classes that the aligned model does not know: target_1."),
        (Layout(scaling={"a": (0, 1e-300)}), Invalid, "Column 'a' of the train set holds values that are too large"),
    ],
)
def test_alignment_that_does_not_fit(
    write: Write, prepare: Prepare, layout: Layout, error: type[SynergosError], fragment: str
) -> None:
    prepared = prepare(Tags(train=[write("d/train", CSV, SIMPLE)]))
    with pytest.raises(error) as caught:
        aligned(prepared, layout, "classify")
    assert fragment in caught.value.message
