"""From a worker's inference statistics to the few figures that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from synergos.jobs import Action

METRICS: dict[Action, tuple[str, ...]] = {
    "regress": ("R2", "MSE", "MAE"),
    "classify": ("accuracy", "f_score", "roc_auc_score"),
}

# Statistic that a search maximises; `accuracy` above is called so in the statistics, whose `accuracy` is one-vs-rest.
GOALS: dict[Action, str] = {"regress": "R2", "classify": "overall_accuracy"}

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
    cells = ([name, *(f"{figures[metric]:.3f}" for metric in metrics)] for name, figures in rows.items())
    return _aligned([["", *metrics], *cells])


def trials(search: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return the lines of a text table of a search: one row per trial, the best one marked.

    Args:
        search: as the optimizations of a Director tell it.
        names: parameters that were searched for.
    """
    best = (search.get("best") or {}).get("run_id")
    rows = [["trial", *names, search["metric"], "grid", "state", ""]]
    for trial in search["trials"]:
        parameters = (_short(trial["parameters"].get(name)) for name in names)
        grids = ", ".join(map(str, trial["grids"]))
        mark = "best" if trial["run_id"] == best else ""
        rows.append([str(trial["number"]), *parameters, _short(trial.get("value")), grids, trial["state"], mark])
    return _aligned(rows)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line per row: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(" ".join([first.ljust(widths[0]), *cells]).rstrip())
    return lines
