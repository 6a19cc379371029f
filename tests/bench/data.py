"""A seeded data set of the shape of the abalone set: a category of three levels and seven numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

NAME = "shells"
COLUMNS = ("length", "diameter", "height", "whole", "shucked", "viscera", "shell")


def layers(widths: list[int]) -> list[dict[str, Any]]:
    """Return an architecture of linear layers, with ReLU in between, from the first width to the last."""
    return [
        {
            "is_input": not position,
            "l_type": "Linear",
            "structure": {"bias": True, "in_features": inputs, "out_features": outputs},
            "activation": "relu" if position < len(widths) - 2 else None,
        }
        for position, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False))
    ]


def write(
    folder: Path,
    model: list[dict[str, Any]],
    hyperparameters: dict[str, object],
    participants: int = 2,
    rows: int = 1250,
) -> Path:
    """Write `rows` rows for each participant below `folder` and return the example's folder."""
    rng = np.random.default_rng(1)
    total = participants * rows
    frame = pd.DataFrame({"sex": rng.integers(0, 3, total)})
    size = rng.gamma(9.0, 0.06, total)
    for position, column in enumerate(COLUMNS):
        frame[column] = np.round(size ** (1 + position / 4) * rng.normal(1.0, 0.1, total), 4)
    frame["target"] = np.round(6 + 8 * size + (frame["sex"] == 2) + rng.normal(0.0, 1.0, total), 0)
    schema = {"sex": "category", **dict.fromkeys(COLUMNS, "float64"), "target": "float64"}
    example = folder / NAME
    for participant in range(1, participants + 1):
        own = frame.iloc[participant - 1 :: participants]
        bounds = {"train": (0, 0.7), "evaluate": (0.7, 0.85), "predict": (0.85, 1)}
        for meta, (low, high) in bounds.items():
            target = example / "dataset" / f"data{participant}" / meta
            target.mkdir(parents=True)
            (target / "metadata.json").write_text('{"datatype": "tabular", "operations": {}}')
            (target / "schema.json").write_text(json.dumps(schema))
            own.iloc[int(low * rows) : int(high * rows)].to_csv(target / "shells.csv", index=False)
    (example / "architecture.json").write_text(json.dumps(model))
    (example / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return example
