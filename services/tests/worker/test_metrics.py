"""The figures against scikit-learn and against counting by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, roc_auc_score

from synergos.worker import metrics

CURVES = ["accuracy", "roc_auc_score", "pr_auc_score", "f_score"]
RATIOS = ["TPRs", "TNRs", "PPVs", "NPVs", "FPRs", "FNRs", "FDRs"]
COUNTS = ["TPs", "TNs", "FPs", "FNs"]


def test_regression_by_hand() -> None:
    figures = metrics.regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert figures == {"R2": pytest.approx(1 - 4 / 2), "MSE": pytest.approx(4 / 3), "MAE": pytest.approx(2 / 3)}
    assert metrics.regression(np.array([1.0]), np.array([2.0])) == {"R2": 0.0, "MSE": 1.0, "MAE": 1.0}


def test_binary_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    score = np.array([0.1, 0.2, 0.7, 0.9, 0.8, 0.3, 0.6, 0.4])
    predicted = (score >= 0.5).astype(np.int64)
    figures = metrics.classification(truth, predicted, np.column_stack([1 - score, score]), ["no", "yes"])
    tn, fp, fn, tp = confusion_matrix(truth, predicted).ravel()
    assert (tn, fp, fn, tp) == (3, 1, 1, 3)
    assert (figures["TPs"], figures["TNs"], figures["FPs"], figures["FNs"]) == ([3, 3], [3, 3], [1, 1], [1, 1])
    for key in ("accuracy", "TPRs", "TNRs", "PPVs", "NPVs", "f_score"):
        assert figures[key] == [0.75, 0.75]
    for key in ("FPRs", "FNRs", "FDRs"):
        assert figures[key] == [0.25, 0.25]
    assert figures["roc_auc_score"] == [pytest.approx(roc_auc_score(truth, score))] * 2
    assert figures["pr_auc_score"][1] == pytest.approx(average_precision_score(truth, score), abs=0.05)
    assert (figures["labels"], figures["overall_accuracy"]) == (["no", "yes"], 0.75)


def test_every_list_has_one_entry_per_class_of_the_project() -> None:
    classes = ["a", "b", "c", "d"]
    truth = np.array([0, 0, 2, 2, 2])
    predicted = np.array([0, 2, 2, 2, 1])
    scores = np.full((5, 4), 0.1)
    scores[np.arange(5), predicted] = 0.7
    figures = metrics.classification(truth, predicted, scores, classes)
    assert all(len(figures[key]) == 4 for key in CURVES + RATIOS + COUNTS)
    assert figures["TPs"] == [1, 0, 2, 0]
    assert figures["FPs"] == [0, 1, 1, 0]
    assert figures["FNs"] == [1, 0, 1, 0]
    assert figures["TNs"] == [3, 4, 1, 5]
    assert figures["TPRs"] == [0.5, 0.0, pytest.approx(2 / 3), 0.0]
    assert figures["roc_auc_score"][1] == figures["roc_auc_score"][3] == figures["pr_auc_score"][3] == 0.0
    assert figures["overall_accuracy"] == 0.6
    assert figures["macro_f_score"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    # Precision of a, b, c: 1, 0, 2/3; recall 1/2, 0 (no such row), 2/3; d does not occur.
    assert figures["macro_precision"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert figures["macro_recall"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)
    assert figures["weighted_precision"] == pytest.approx((2 * 1 + 3 * 2 / 3) / 5)
    assert figures["weighted_recall"] == pytest.approx(figures["overall_accuracy"])
    json.dumps(figures, allow_nan=False)


@pytest.mark.filterwarnings("error")
def test_a_single_class_is_defined_and_silent() -> None:
    truth = np.zeros(3, dtype=np.int64)
    scores = np.array([[0.9, 0.1]] * 3)
    figures = metrics.classification(truth, truth, scores, ["0", "1"])
    assert figures["roc_auc_score"] == [0.0, 0.0]
    assert figures["pr_auc_score"] == [1.0, 0.0]
    assert figures["TPs"] == [3, 0]
    assert metrics.classification(truth, truth, scores[:, :1], ["0"])["TPs"] == [3]
