"""What few rows share stays at the worker, and still counts once the layout is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from heart import Write

from synergos.errors import FeatureDrift
from synergos.jobs import Layout, Tags
from synergos.worker.datasets import Preparation, aligned

Prepare = Callable[..., Preparation]
SCHEMA = {"age": "int32", "job": "category", "target": "category"}
JOBS = ["clerk"] * 5 + ["nurse"] * 5 + ["mayor"] * 2 + ["queen"]


def table(jobs: list[str], targets: list[str] | None = None) -> str:
    labels = targets or ["yes", "no"] * (len(jobs) // 2) + ["yes"] * (len(jobs) % 2)
    rows = [f"{20 + row},{job},{label}" for row, (job, label) in enumerate(zip(jobs, labels, strict=True))]
    return "age,job,target\n" + "\n".join(rows) + "\n"


def test_levels_that_few_rows_share_go_to_a_bucket(write: Write, prepare: Prepare) -> None:
    tags = Tags(
        train=[write("d/train", table(JOBS), SCHEMA)],
        # Two here and two in training make four.
        evaluate=[write("d/evaluate", table(["mayor", "mayor", "clerk", "clerk", "clerk"]), SCHEMA)],
    )
    prepared = prepare(tags, minimum_rows=5)
    assert prepared.headers["train"].X == ["age", "job_#other", "job_clerk", "job_nurse"]
    assert prepared.headers["evaluate"].X == ["age", "job_#other", "job_clerk"]
    jobs = prepared.metadata["train"]["features"]["cat_variables"]["job"]
    assert (jobs["labels"], jobs["unique"]) == (["#other", "clerk", "nurse"], 3)
    assert "mayor" not in json.dumps(prepared.told()) and "queen" not in json.dumps(prepared.told())
    assert prepare(tags, minimum_rows=4).headers["train"].X[3] == "job_mayor"

    X = aligned(prepared, Layout(), "classify")["train"].split.X
    assert X[:, 1].tolist() == [0] * 10 + [1] * 3
    # Another participant told `mayor`: it counts under its name here, too.
    layout = Layout(X=["age", "job_#other", "job_clerk", "job_mayor", "job_nurse"], y=["target_no", "target_yes"])
    X = aligned(prepared, layout, "classify")["train"].split.X
    assert np.flatnonzero(X[:, 3]).tolist() == [10, 11] and np.flatnonzero(X[:, 1]).tolist() == [12]
    # What the orchestrator has sent is no secret.
    known = prepare(tags, minimum_rows=5, layout=layout)
    assert known.headers["train"].X == layout.X
    assert known.headers["evaluate"].X == ["age", "job_clerk", "job_mayor"]


def test_a_level_that_nobody_knows_is_drift_unless_there_is_a_bucket(write: Write, prepare: Prepare) -> None:
    prepared = prepare(Tags(train=[write("d/train", table(JOBS), SCHEMA)]), minimum_rows=5)
    layout = Layout(X=["age", "job_#other", "job_clerk"], y=["target_no", "target_yes"])
    X = aligned(prepared, layout, "classify")["train"].split.X
    assert X[:, 1].tolist() == [0] * 5 + [1] * 8
    layout.X.remove("job_#other")
    with pytest.raises(FeatureDrift) as caught:
        aligned(prepared, layout, "classify")
    assert "train set has columns that the aligned model does not know: job." in caught.value.message


def test_rows_of_withheld_classes_are_left_out(write: Write, prepare: Prepare) -> None:
    targets = ["no"] * 6 + ["yes"] * 5 + ["maybe"] * 2
    tags = Tags(
        train=[write("d/train", table(JOBS, targets), SCHEMA)],
        evaluate=[write("d/evaluate", table(["clerk"] * 3, ["yes", "maybe", "no"]), SCHEMA)],
        predict=[write("d/predict", table(["clerk"] * 2, ["maybe", "no"]), SCHEMA)],
    )
    assert "maybe" in json.dumps(prepare(tags, minimum_rows=4).told())
    prepared = prepare(tags, minimum_rows=5)
    assert prepared.headers["train"].y == ["target_no", "target_yes"]
    assert prepared.headers["predict"].y == ["target_no"]
    assert prepared.metadata["train"]["classes"] == {"target_no": 6, "target_yes": 5}
    assert "maybe" not in json.dumps(prepared.told())

    sets = aligned(prepared, Layout(X=[], y=["target_no", "target_yes"]), "classify")
    assert {meta: len(each.rows) for meta, each in sets.items()} == {"train": 11, "evaluate": 2, "predict": 2}
    assert len(sets["train"].split.X) == 11 and sets["train"].split.y is not None
    assert sets["evaluate"].rows.get_level_values("row").tolist() == [0, 2]
    assert sets["predict"].truth.tolist() == [-1, 0]
    known = Layout(X=[], y=["target_maybe", "target_no", "target_yes"])
    sets = aligned(prepared, known, "classify")
    assert sets["train"].truth.tolist() == [1] * 6 + [2] * 5 + [0] * 2
    assert prepare(tags, minimum_rows=5, layout=known).headers["evaluate"].y == known.y


def test_columns_with_few_values_are_left_out(write: Write, prepare: Prepare) -> None:
    rows = [f"{row},{row if row < 4 else ''},{row % 2}" for row in range(12)]
    schema = {"a": "float64", "b": "float64", "target": "category"}
    tags = Tags(train=[write("d/train", "a,b,target\n" + "\n".join(rows), schema)])
    assert prepare(tags, minimum_rows=5).headers["train"].X == ["a"]
    assert prepare(tags, minimum_rows=4).headers["train"].X == ["a", "b"]


@pytest.mark.parametrize(
    ("operations", "key"), [({"seed": 1, "boost_iter": 5, "thread_count": 2}, "operations"), ({}, "exclusions")]
)
def test_settings_of_the_original_are_accepted(write: Write, prepare: Prepare, operations: Any, key: str) -> None:
    metadata = {"datatype": "tabular", key: operations}
    assert prepare(Tags(train=[write("d/train", table(JOBS), SCHEMA, metadata)])).metadata["train"]["src_count"] == 13
