"""A generated data set, large enough to take a slowed worker seconds to read, train on and predict."""

from __future__ import annotations

import json
import random
from pathlib import Path

NAME = "signal"
FEATURES = tuple(f"x{number}" for number in range(8))
ROWS = {"data1": {"train": 20_000, "evaluate": 20_000}, "data2": {"train": 12_000, "evaluate": 5_000}}
ROWS["data3"] = {"train": 16_000, "evaluate": 5_000}
MODEL = [
    {
        "is_input": True,
        "l_type": "Linear",
        "structure": {"bias": True, "in_features": len(FEATURES), "out_features": 16},
        "activation": "relu",
    },
    {
        "is_input": False,
        "l_type": "Linear",
        "structure": {"bias": True, "in_features": 16, "out_features": 1},
        "activation": "sigmoid",
    },
]


def write(root: Path) -> None:
    """Write the parts of all participants below `root`, the same bytes each time."""
    dice = random.Random(7)
    for part, sizes in ROWS.items():
        for meta, rows in sizes.items():
            folder = root / NAME / "dataset" / part / meta
            folder.mkdir(parents=True)
            (folder / "metadata.json").write_text(json.dumps({"datatype": "tabular", "operations": {}}))
            schema = {**dict.fromkeys(FEATURES, "float64"), "target": "category"}
            (folder / "schema.json").write_text(json.dumps(schema))
            lines = [",".join((*FEATURES, "target"))]
            for _ in range(rows):
                values = [dice.gauss(0, 1) for _ in FEATURES]
                label = int(sum(values[::2]) * values[1] + dice.gauss(0, 0.5) > 0)
                lines.append(",".join((*(f"{value:.4f}" for value in values), str(label))))
            (folder / f"{NAME}.csv").write_text("\n".join(lines) + "\n")
