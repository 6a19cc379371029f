"""From a worker's inference statistics to the few figures that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synergos.jobs import Action

METRICS: dict[Action, tuple[str, ...]] = {
    "regress": ("R2", "MSE", "MAE"),
    "classify": ("accuracy", "f_score", "roc_auc_score"),
}

Figures = dict[str, float]


def of_statistics(action: Action, statistics: Mapping[str, Any]) -> Figures:
    """Return one participant's figures.

    Args:
        statistics: as a validation record holds them; for `classify` each entry is a list with one value per class.

    Returns:
        `R2, MSE, MAE`, or the share of rows put into the right class (`accuracy`, where the statistics have one-vs-rest
        values) and the unweighted class means of `f_score` and `roc_auc_score`.
    """
    if action == "regress":
        return {metric: float(statistics[metric]) for metric in METRICS[action]}
    means = {metric: sum(statistics[metric]) / len(statistics[metric]) for metric in ("f_score", "roc_auc_score")}
    return {"accuracy": sum(statistics["TPs"]) / sum(class_counts(statistics)), **means}


def class_counts(statistics: Mapping[str, Any]) -> list[int]:
    """Return how many rows each class really has."""
    return [positive + missed for positive, missed in zip(statistics["TPs"], statistics["FNs"], strict=True)]


def overall(parts: list[tuple[int, Figures]], spread: float | None = None) -> Figures:
    """Return the figures on the rows of all participants: means of their own, weighted by rows, and R2 of all rows.

    Args:
        parts: (rows, figures) per participant.
        spread: regression: variance of the labels of all rows together.
    """
    rows = sum(count for count, _ in parts)
    found = {metric: sum(count * figures[metric] for count, figures in parts) / rows for metric in parts[0][1]}
    return {**found, "R2": 1 - found["MSE"] / spread} if spread else found


def chance(action: Action, statistics: Sequence[Mapping[str, Any]]) -> float:
    """Return what needs no model: the share of the most frequent class over all participants' rows, or an R2 of 0."""
    if action == "regress":
        return 0.0
    totals: list[int] = [sum(counts) for counts in zip(*map(class_counts, statistics), strict=True)]
    return max(totals) / sum(totals)


def table(rows: Mapping[str, Mapping[str, float]], action: Action) -> list[str]:
    """Return the lines of an aligned text table: one row per model, one column per metric."""
    metrics = METRICS[action]
    first = max(len(name) for name in rows)
    widths = [max(len(metric), *(len(f"{figures[metric]:.3f}") for figures in rows.values())) for metric in metrics]
    lines = [" ".join([" " * first, *(f"{metric:>{width}}" for metric, width in zip(metrics, widths, strict=True))])]
    for name, figures in rows.items():
        cells = (f"{figures[metric]:>{width}.3f}" for metric, width in zip(metrics, widths, strict=True))
        lines.append(" ".join([f"{name:<{first}}", *cells]))
    return lines
