"""A seeded data set of the shape of the abalone set: 2,500 rows, a category of three levels and seven numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

NAME = "shells"
ROWS = 2500
COLUMNS = ("length", "diameter", "height", "whole", "shucked", "viscera", "shell")


def write(folder: Path, layers: list[tuple[int, int]], hyperparameters: dict[str, object]) -> Path:
    """Write the set for two participants below `folder` and return its folder.

    Args:
        layers: (inputs, outputs) of each linear layer.
    """
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"sex": rng.integers(0, 3, ROWS)})
    size = rng.gamma(9.0, 0.06, ROWS)
    for position, column in enumerate(COLUMNS):
        frame[column] = np.round(size ** (1 + position / 4) * rng.normal(1.0, 0.1, ROWS), 4)
    frame["target"] = np.round(6 + 8 * size + (frame["sex"] == 2) + rng.normal(0.0, 1.0, ROWS), 0)
    schema = {"sex": "category", **dict.fromkeys(COLUMNS, "float64"), "target": "float64"}
    example = folder / NAME
    for participant in (1, 2):
        rows = frame.iloc[participant - 1 :: 2]
        bounds = {"train": (0, 0.7), "evaluate": (0.7, 0.85), "predict": (0.85, 1)}
        for meta, (low, high) in bounds.items():
            target = example / "dataset" / f"data{participant}" / meta
            target.mkdir(parents=True)
            (target / "metadata.json").write_text('{"datatype": "tabular", "operations": {}}')
            (target / "schema.json").write_text(json.dumps(schema))
            rows.iloc[int(low * len(rows)) : int(high * len(rows))].to_csv(target / "shells.csv", index=False)
    model = [
        {
            "is_input": not position,
            "l_type": "Linear",
            "structure": {"bias": True, "in_features": inputs, "out_features": outputs},
            "activation": "relu" if position < len(layers) - 1 else None,
        }
        for position, (inputs, outputs) in enumerate(layers)
    ]
    (example / "architecture.json").write_text(json.dumps(model))
    (example / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    return example
