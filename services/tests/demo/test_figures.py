"""Figures of the demo against values worked out by hand."""

from __future__ import annotations

import pytest

from synergos.demo import figures

# Ten rows: six of class 0 (five found), four of class 1 (three found).
STATISTICS = {
    "accuracy": [0.8, 0.8],
    "f_score": [0.8, 0.6],
    "roc_auc_score": [0.9, 0.7],
    "TPs": [5, 3],
    "FNs": [1, 1],
    "FPs": [1, 1],
    "TNs": [3, 5],
}


def test_classification_counts_rows_not_classes() -> None:
    found = figures.of_statistics("classify", STATISTICS)
    assert found == {"accuracy": 0.8, "f_score": pytest.approx(0.7), "roc_auc_score": pytest.approx(0.8)}
    # The other participant has ten rows of class 1: 14 of 20 rows are of that class.
    other = {"TPs": [0, 10], "FNs": [0, 0]}
    assert figures.chance("classify", [STATISTICS, other]) == 0.7


def test_overall_weighs_by_rows() -> None:
    parts = [(30, {"R2": 0.5, "MSE": 10.0, "MAE": 2.0}), (10, {"R2": 0.1, "MSE": 2.0, "MAE": 1.0})]
    assert figures.overall(parts) == pytest.approx({"R2": 0.4, "MSE": 8.0, "MAE": 1.75})
    # Labels that vary by 20 around their common mean: what the model does not explain of that is 8.
    assert figures.overall(parts, 20.0) == pytest.approx({"R2": 0.6, "MSE": 8.0, "MAE": 1.75})


def test_the_table_lines_up() -> None:
    rows = {
        "federated": {"R2": 0.5, "MSE": 2900.25, "MAE": 44.0},
        "worker_1 alone": {"R2": -0.1234, "MSE": 3.0, "MAE": 4.0},
    }
    assert figures.table(rows, "regress") == [
        "                   R2      MSE    MAE",
        "federated       0.500 2900.250 44.000",
        "worker_1 alone -0.123    3.000  4.000",
    ]


def test_the_trials_of_a_search_line_up_and_the_best_is_marked() -> None:
    search = {
        "metric": "R2",
        "trials": [
            {
                "run_id": "optim_run_a",
                "number": 0,
                "state": "complete",
                "value": 0.51239,
                "parameters": {"lr": 0.01, "rounds": 10},
                "grids": [0, 1],
            },
            {
                "run_id": "optim_run_b",
                "number": 1,
                "state": "complete",
                "value": 0.6,
                "parameters": {"lr": 0.1234567, "rounds": 5},
                "grids": [1],
            },
            {"run_id": "optim_run_c", "number": 2, "state": "failed", "parameters": {"lr": 9.0}, "grids": []},
        ],
        "best": {"run_id": "optim_run_b", "value": 0.6, "parameters": {}},
    }
    assert figures.trials(search, ["lr", "rounds"]) == [
        "trial     lr rounds     R2 grid    state",
        "0       0.01     10 0.5124 0, 1 complete",
        "1     0.1235      5    0.6    1 complete best",
        "2          9      -      -        failed",
    ]
    assert "best" not in "".join(figures.trials({**search, "best": None}, ["lr"]))
