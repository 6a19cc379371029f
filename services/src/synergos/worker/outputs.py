"""The files below a worker's output folder: written completely or not at all, and never as pickle."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from synergos.errors import Invalid
from synergos.jobs import Action
from synergos.worker.prepared import Aligned
from synergos.worker.tree import NEW, OLD, OPERATIONS, PREPROCESSING


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Invalid(
            f"The worker cannot write {path}: {error.strerror or error}. Free space or correct the folder's owner."
        ) from error


def write(path: Path, content: str | bytes) -> None:
    """Replace `path`, making its folders. Raises `Invalid` if that fails; then the file is as it was."""
    fresh = path.with_name(f".{path.name}.new")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_bytes(content.encode() if isinstance(content, str) else content)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def as_json(value: Any) -> str:
    """Return `value` as JSON text; NaN is an error of the caller."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def preparing(project: Path) -> Iterator[Path]:
    """Give an empty folder for the prepared data of a project, which is deleted if it is not published."""
    fresh = project / NEW
    with _writing(project / PREPROCESSING):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            # A project whose first poll failed leaves nothing.
            with contextlib.suppress(OSError):
                project.rmdir()
                project.parent.rmdir()


def publish(project: Path, record: str) -> None:
    """Replace the prepared data of a project and its record together. Raises `Invalid` with both as they were."""
    folder, fresh, old = project / PREPROCESSING, project / NEW, project / OLD
    # Nothing below needs space: what can fill a disk comes first.
    written = fresh / OPERATIONS
    with _writing(project / OPERATIONS):
        written.write_text(record)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        written.replace(project / OPERATIONS)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def write_inference(
    folder: Path, meta: str, data: Aligned, action: Action, predicted: NDArray[Any], scores: NDArray[Any]
) -> dict[str, Any]:
    """Compute the metrics of one inference and write its files into `folder`.

    Args:
        predicted: regress values, classify class indexes; shape (rows,) or (rows, 1).
        scores: regress and up to two classes shape (rows, 1) or (rows,), more classes (rows, classes).

    Returns:
        `{"statistics": metrics, "res_path": path of the statistics}`; statistics are empty without any label.

    Raises:
        Invalid: the figures do not fit the rows, or are not finite.
    """
    # An idle worker does without scikit-learn and its 65 MiB.
    from synergos.worker import metrics

    predicted, scores = _checked(data, action, meta, predicted, scores)
    results = pd.DataFrame(index=data.rows)
    if action == "regress":
        labelled = np.isfinite(data.truth)
        results["prediction"] = predicted
        if labelled.any():
            results["target"] = data.truth
    else:
        labelled = data.truth >= 0
        names = np.array([*data.classes, ""], dtype=object)
        results["prediction"] = names[predicted]
        results["score"] = _per_class(scores, len(data.classes))[np.arange(len(predicted)), predicted]
        if labelled.any():
            results["target"] = names[data.truth]
    statistics: dict[str, Any] = {}
    if labelled.any():
        truth = data.truth[labelled]
        statistics = (
            metrics.regression(truth, predicted[labelled])
            if action == "regress"
            else metrics.classification(
                truth, predicted[labelled], _per_class(scores, len(data.classes))[labelled], data.classes
            )
        )
    write(folder / f"inference_predictions_{meta}.txt", _text(predicted))
    write(folder / f"inference_scores_{meta}.txt", _text(scores))
    write(folder / f"inference_results_{meta}.csv", results.to_csv())
    path = folder / f"inference_statistics_{meta}.json"
    write(path, as_json(statistics))
    return {"statistics": statistics, "res_path": str(path)}


def _checked(
    data: Aligned, action: Action, meta: str, predicted: NDArray[Any], scores: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    rows = len(data.rows)
    width = len(data.classes) if len(data.classes) > 2 else 1
    if predicted.size != rows or scores.size != rows * width:
        raise Invalid(
            f"The {meta} set has {rows} rows, so {rows} predictions and {rows} x {width} scores are needed; "
            f"got {predicted.size} and {scores.size} figures."
        )
    predicted, scores = predicted.reshape(rows), scores.reshape(rows, width).astype(np.float64)
    if not (np.isfinite(predicted).all() and np.isfinite(scores).all()):
        raise Invalid("The model's outputs are not finite numbers: the training diverged, try a smaller learning rate.")
    if action == "regress":
        return predicted.astype(np.float64), scores
    if (predicted % 1 != 0).any() or (predicted < 0).any() or (predicted >= len(data.classes)).any():
        raise Invalid(f"Predicted classes are indexes from 0 to {len(data.classes) - 1} ({', '.join(data.classes)}).")
    return predicted.astype(np.int64), scores


def _per_class(scores: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """One score is that of the second of two classes."""
    return np.hstack([1 - scores, scores])[:, :classes] if scores.shape[1] == 1 else scores


def _text(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savetxt(buffer, values)
    return buffer.getvalue()
