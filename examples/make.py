"""Write the example data sets in the Synergos folder format; run it where scikit-learn is installed.

    python examples/make.py [folder]

The data come from scikit-learn's own copies. Everything is seeded, so the same files come out every time. A new example
is one entry of EXAMPLES; a new way to share rows between participants is one function like `iid`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes

SEED = 42
PARTICIPANTS = ("data1", "data2")
# Share of a participant's rows in each set; what is left after the first two is for prediction.
TRAIN, EVALUATE = 0.65, 0.2

Layers = list[dict[str, Any]]
Shares = list[NDArray[np.intp]]


@dataclass(frozen=True)
class Example:
    """One data set with the model and the settings that train it well.

    Attributes:
        load: returns a frame with numeric cells, the label in column `target`.
        dtypes: column -> dtype where it is not float64.
        share: (labels, number of participants, generator) -> row positions per participant.
        architecture: layers as an experiment takes them.
        hyperparameters: run parameters.
        ranges: search space around them.
    """

    load: Callable[[], pd.DataFrame]
    dtypes: dict[str, str]
    share: Callable[[pd.Series, int, np.random.Generator], Shares]
    architecture: Layers
    hyperparameters: dict[str, Any]
    ranges: dict[str, Any]


def linear(in_features: int, out_features: int, activation: str | None, is_input: bool = False) -> dict[str, Any]:
    """Return one fully connected layer in the experiment format."""
    structure = {"bias": True, "in_features": in_features, "out_features": out_features}
    return {"is_input": is_input, "l_type": "Linear", "structure": structure, "activation": activation}


def iid(labels: pd.Series, participants: int, rng: np.random.Generator) -> Shares:
    """Deal shuffled rows out in turn."""
    rows = rng.permutation(len(labels))
    return [rows[start::participants] for start in range(participants)]


def iid_by_class(labels: pd.Series, participants: int, rng: np.random.Generator) -> Shares:
    """Deal shuffled rows out in turn within each class, so that every participant has the same class balance."""
    rows = rng.permutation(len(labels))
    rows = rows[np.argsort(labels.to_numpy()[rows], kind="stable")]
    return [rng.permutation(rows[start::participants]) for start in range(participants)]


def diabetes() -> pd.DataFrame:
    """Ten baseline measurements of 442 patients and the progression of their disease a year later."""
    return load_diabetes(scaled=False, as_frame=True).frame


def breast_cancer() -> pd.DataFrame:
    """Thirty measurements of cell nuclei of 569 tumours; target 0 is malignant, 1 benign."""
    frame = load_breast_cancer(as_frame=True).frame
    return frame.rename(columns=lambda name: name.replace(" ", "_"))


EXAMPLES = {
    "diabetes": Example(
        load=diabetes,
        dtypes={"age": "int32", "sex": "category"},
        share=iid,
        architecture=[linear(11, 1, None, is_input=True)],
        hyperparameters={
            "algorithm": "FedAvg",
            "rounds": 5,
            "epochs": 5,
            "batch_size": 32,
            "lr": 0.03,
            "mu": 0.0,
            "optimizer": "SGD",
            "criterion": "MSELoss",
            "lr_scheduler": "StepLR",
            "step_size": 1,
            "gamma": 0.9,
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [3, 5]},
            "batch_size": {"_type": "choice", "_value": [16, 32, 64]},
            "lr": {"_type": "uniform", "_value": [0.003, 0.05]},
        },
    ),
    "breast_cancer": Example(
        load=breast_cancer,
        dtypes={"target": "category"},
        share=iid_by_class,
        architecture=[linear(30, 16, "relu", is_input=True), linear(16, 1, "sigmoid")],
        hyperparameters={
            "algorithm": "FedProx",
            "rounds": 5,
            "epochs": 4,
            "batch_size": 16,
            "lr": 0.1,
            "mu": 0.01,
            "optimizer": "SGD",
            "criterion": "BCELoss",
            "lr_scheduler": "StepLR",
            "step_size": 1,
            "gamma": 0.9,
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [3, 5]},
            "batch_size": {"_type": "choice", "_value": [16, 32, 64]},
            "lr": {"_type": "uniform", "_value": [0.01, 0.2]},
            "mu": {"_type": "uniform", "_value": [0.0, 1.0]},
        },
    ),
}


def write_json(path: Path, content: Any) -> None:
    """Write one JSON file with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write(name: str, example: Example, folder: Path) -> None:
    """Write one example below `folder`/`name`."""
    frame = example.load()
    schema = {column: example.dtypes.get(column, "float64") for column in frame.columns}
    whole = [column for column, dtype in schema.items() if dtype != "float64"]
    frame[whole] = frame[whole].astype(int)

    rng = np.random.default_rng(SEED)
    for participant, rows in zip(PARTICIPANTS, example.share(frame["target"], len(PARTICIPANTS), rng), strict=True):
        train, evaluate = int(TRAIN * len(rows)), int((TRAIN + EVALUATE) * len(rows))
        parts = {"train": rows[:train], "evaluate": rows[train:evaluate], "predict": rows[evaluate:]}
        for meta, positions in parts.items():
            target = folder / name / "dataset" / participant / meta
            write_json(target / "metadata.json", {"datatype": "tabular", "operations": {}})
            write_json(target / "schema.json", schema)
            frame.iloc[positions].to_csv(target / f"{name}.csv", index=False, lineterminator="\n")

    write_json(folder / name / "architecture.json", example.architecture)
    write_json(folder / name / "hyperparameters.json", example.hyperparameters)
    write_json(folder / name / "ranges.json", example.ranges)


def main() -> None:
    """Write every example below the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write the example data sets in the Synergos folder format.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="default: this one")
    folder = parser.parse_args().folder
    for name, example in EXAMPLES.items():
        write(name, example, folder)
        print(f"{folder / name}")


if __name__ == "__main__":
    main()
