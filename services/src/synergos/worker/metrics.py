"""The figures of one inference, under the names that the original used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    auc,
    mean_absolute_error,
    mean_squared_error,
    multilabel_confusion_matrix,
    precision_recall_curve,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
)


def regression(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, Any]:
    """Return R2 (0.0 for a single row, where it is undefined), MSE and MAE."""
    return {
        "R2": float(r2_score(truth, predicted)) if len(truth) > 1 else 0.0,
        "MSE": float(mean_squared_error(truth, predicted)),
        "MAE": float(mean_absolute_error(truth, predicted)),
    }


def classification(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], scores: NDArray[np.float64], classes: list[str]
) -> dict[str, Any]:
    """Return one-vs-rest figures per class, in the order of `classes`, and figures over all rows.

    What is undefined is 0.0: a ratio whose denominator is 0, the ROC curve of a class that has only positive or only
    negative rows here, the precision-recall curve of a class without rows.

    Args:
        truth: class index, shape (rows,).
        predicted: class index, shape (rows,).
        scores: shape (rows, classes).
        classes: names of all classes of the project, also those without rows here.
    """
    indexes = range(len(classes))
    tn, fp, fn, tp = np.moveaxis(
        multilabel_confusion_matrix(truth, predicted, labels=list(indexes)).reshape(-1, 4), 1, 0
    )
    return {
        "labels": classes,
        "accuracy": _ratio(tp + tn, tp + tn + fp + fn),
        "roc_auc_score": [_roc_auc(truth == index, scores[:, index]) for index in indexes],
        "pr_auc_score": [_pr_auc(truth == index, scores[:, index]) for index in indexes],
        "f_score": _ratio(2 * tp, 2 * tp + fp + fn),
        "TPRs": _ratio(tp, tp + fn),
        "TNRs": _ratio(tn, tn + fp),
        "PPVs": _ratio(tp, tp + fp),
        "NPVs": _ratio(tn, tn + fn),
        "FPRs": _ratio(fp, fp + tn),
        "FNRs": _ratio(fn, fn + tp),
        "FDRs": _ratio(fp, fp + tp),
        "TPs": tp.tolist(),
        "TNs": tn.tolist(),
        "FPs": fp.tolist(),
        "FNs": fn.tolist(),
        "overall_accuracy": float(accuracy_score(truth, predicted)),
        **_means(truth, predicted, "macro"),
        **_means(truth, predicted, "weighted"),
    }


def _means(truth: NDArray[np.int64], predicted: NDArray[np.int64], average: str) -> dict[str, float]:
    """Return means over the classes that occur; `weighted` by the rows that have each."""
    figures = precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
    return {
        f"{average}_{name}": float(figure)
        for name, figure in zip(("precision", "recall", "f_score"), figures[:3], strict=True)
    }


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
    ratios = np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
    return [float(ratio) for ratio in ratios]


def _roc_auc(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else 0.0


def _pr_auc(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    if not truth.any():
        return 0.0
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(auc(recall, precision))
