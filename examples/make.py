"""Write the example data sets in the Synergos folder format; run it where scikit-learn and Pillow are installed.

    python examples/make.py [folder]

Tables and images are scikit-learn's own copies, texts are in webster.csv beside this file. Everything is seeded, so the
same files come out every time. A new example is one entry of EXAMPLES.

Rows for `evaluate` and `predict` are dealt out once, every class evenly. The rest is dealt out twice: evenly as
`train`, and unevenly as `non_iid_train`, so that a participant alone knows only one side of the matter.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

SEED = 42
PARTICIPANTS = ("data1", "data2")
# Share of the rows; what is left is for prediction.
TRAIN, EVALUATE = 0.6, 0.25

Layers = list[dict[str, Any]]
Rows = NDArray[np.intp]
Shares = tuple[Rows, Rows]


@dataclass(frozen=True)
class Example:
    """One data set with the model and the settings that train it well.

    Attributes:
        load: returns a frame with the label in column `target`.
        write: (frame, dtypes, folder, name) -> writes these rows as one data set.
        skew: (labels, generator) -> row positions per participant, unevenly.
        architecture: layers as an experiment takes them.
        hyperparameters: run parameters.
        ranges: search space around them.
        dtypes: tables: column -> dtype where it is not float64.
    """

    load: Callable[[], pd.DataFrame]
    write: Callable[[pd.DataFrame, Mapping[str, str], Path, str], None]
    skew: Callable[[pd.Series, np.random.Generator], Shares]
    architecture: Layers
    hyperparameters: dict[str, Any]
    ranges: dict[str, Any]
    dtypes: dict[str, str] = field(default_factory=dict)

    @property
    def classifies(self) -> bool:
        """Whether the label is a class."""
        return self.dtypes.get("target", "category") == "category"


def layer(l_type: str, activation: str | None = None, is_input: bool = False, **structure: Any) -> dict[str, Any]:
    """Return one layer in the experiment format."""
    return {"is_input": is_input, "l_type": l_type, "structure": structure, "activation": activation}


def linear(in_features: int, out_features: int, activation: str | None, is_input: bool = False) -> dict[str, Any]:
    """Return one fully connected layer in the experiment format."""
    return layer("Linear", activation, is_input, bias=True, in_features=in_features, out_features=out_features)


def deal(labels: pd.Series, classifies: bool, rng: np.random.Generator) -> dict[str, Shares]:
    """Return meta -> row positions per participant: shuffled, every class evenly."""
    dealt: dict[str, list[list[Rows]]] = {meta: [[], []] for meta in ("train", "evaluate", "predict")}
    for level in sorted(labels.unique()) if classifies else [None]:
        rows = rng.permutation(np.flatnonzero(labels == level) if classifies else len(labels))
        cuts = [round(TRAIN * len(rows)), round((TRAIN + EVALUATE) * len(rows))]
        for shares, part in zip(dealt.values(), np.split(rows, cuts), strict=True):
            for index, share in enumerate(shares):
                share.append(part[index::2])
    return {
        meta: (rng.permutation(np.concatenate(one)), rng.permutation(np.concatenate(other)))
        for meta, (one, other) in dealt.items()
    }


def by_class(shares: Mapping[Any, float]) -> Callable[[pd.Series, np.random.Generator], Shares]:
    """Give the first participant this share of each class, and the second the rest."""

    def skew(labels: pd.Series, rng: np.random.Generator) -> Shares:
        parts = []
        for level, share in shares.items():
            rows = rng.permutation(np.flatnonzero(labels == level))
            parts.append(np.split(rows, [round(share * len(rows))]))
        first, second = (rng.permutation(np.concatenate(side)) for side in zip(*parts, strict=True))
        return first, second

    return skew


def by_value(labels: pd.Series, rng: np.random.Generator) -> Shares:
    """Give the first participant the rows with low labels, and the second those with high ones."""
    low, high = np.array_split(np.argsort(labels.to_numpy(), kind="stable"), 2)
    return rng.permutation(low), rng.permutation(high)


def diabetes() -> pd.DataFrame:
    """Ten baseline measurements of 442 patients and the progression of their disease a year later."""
    return load_diabetes(scaled=False, as_frame=True).frame


def breast_cancer() -> pd.DataFrame:
    """Thirty measurements of cell nuclei of 569 tumours; target 0 is malignant, 1 benign."""
    frame = load_breast_cancer(as_frame=True).frame
    return frame.rename(columns=lambda name: name.replace(" ", "_"))


def wine() -> pd.DataFrame:
    """Thirteen chemical measurements of 178 wines from three growers in one region."""
    frame = load_wine(as_frame=True).frame
    return frame.rename(columns=lambda name: name.replace("/", "_"))


def digits() -> pd.DataFrame:
    """Ninety handwritten digits each of four classes, 8 x 8 pixels."""
    data = load_digits()
    rows = np.concatenate([np.flatnonzero(data.target == digit)[:90] for digit in (3, 5, 8, 9)])
    # 17 shades in the original.
    pixels = (data.images[rows] * 255 / 16).round().astype(np.uint8)
    return pd.DataFrame({"pixels": list(pixels), "target": data.target[rows].astype(str)})


def webster() -> pd.DataFrame:
    """Dictionary definitions from four fields of knowledge."""
    return pd.read_csv(Path(__file__).with_name("webster.csv"))


def write_table(frame: pd.DataFrame, dtypes: Mapping[str, str], folder: Path, name: str) -> None:
    """Write one csv file and its schema."""
    schema = {column: dtypes.get(column, "float64") for column in frame.columns}
    whole = {column: int for column, dtype in schema.items() if dtype != "float64"}
    write_json(folder / "metadata.json", {"datatype": "tabular", "operations": {}})
    write_json(folder / "schema.json", schema)
    frame.astype(whole).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


def write_images(frame: pd.DataFrame, _dtypes: Mapping[str, str], folder: Path, _name: str) -> None:
    """Write one PNG file per row, named by the row, and mapping.csv with their labels."""
    write_json(folder / "metadata.json", {"datatype": "image", "operations": {}})
    names = [f"{position:03}.png" for position in frame.index]
    for name, pixels in zip(names, frame["pixels"], strict=True):
        # Not compressed: the bytes then do not depend on the version of a library.
        Image.fromarray(pixels).save(folder / name, compress_level=0)
    mapping = pd.DataFrame({"image": names, "target": frame["target"].to_numpy()})
    mapping.to_csv(folder / "mapping.csv", index=False, lineterminator="\n")


def write_texts(frame: pd.DataFrame, _dtypes: Mapping[str, str], folder: Path, name: str) -> None:
    """Write one csv file of text and target."""
    write_json(folder / "metadata.json", {"datatype": "text", "operations": {}})
    frame[["text", "target"]].to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")


EXAMPLES = {
    "diabetes": Example(
        load=diabetes,
        write=write_table,
        skew=by_value,
        dtypes={"age": "int32", "sex": "category", "target": "float64"},
        architecture=[linear(11, 1, None, is_input=True)],
        hyperparameters={
            "algorithm": "FedAvg",
            "rounds": 10,
            "epochs": 2,
            "batch_size": 32,
            "lr": 0.1,
            "optimizer": "SGD",
            "criterion": "MSELoss",
            "lr_scheduler": "StepLR",
            "step_size": 1,
            "gamma": 0.9,
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [5, 10]},
            "batch_size": {"_type": "choice", "_value": [16, 32, 64]},
            "lr": {"_type": "uniform", "_value": [0.01, 0.15]},
        },
    ),
    "breast_cancer": Example(
        load=breast_cancer,
        write=write_table,
        skew=by_class({0: 0.95, 1: 0.05}),
        dtypes={"target": "category"},
        architecture=[linear(30, 16, "relu", is_input=True), linear(16, 1, "sigmoid")],
        hyperparameters={
            "algorithm": "FedProx",
            "rounds": 15,
            "epochs": 1,
            "batch_size": 16,
            "lr": 0.1,
            "mu": 0.01,
            "optimizer": "SGD",
            "criterion": "BCELoss",
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [10, 15]},
            "batch_size": {"_type": "choice", "_value": [16, 32, 64]},
            "lr": {"_type": "uniform", "_value": [0.01, 0.2]},
            "mu": {"_type": "uniform", "_value": [0.0, 1.0]},
        },
    ),
    "wine": Example(
        load=wine,
        write=write_table,
        skew=by_class({0: 1.0, 1: 0.5, 2: 0.0}),
        dtypes={"target": "category"},
        architecture=[linear(13, 16, "relu", is_input=True), linear(16, 3, "softmax")],
        hyperparameters={
            "algorithm": "FedAvg",
            "rounds": 10,
            "epochs": 2,
            "batch_size": 16,
            "lr": 0.1,
            "optimizer": "SGD",
            "criterion": "CrossEntropyLoss",
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [5, 10]},
            "batch_size": {"_type": "choice", "_value": [8, 16, 32]},
            "lr": {"_type": "uniform", "_value": [0.01, 0.2]},
        },
    ),
    "digits": Example(
        load=digits,
        write=write_images,
        skew=by_class({"3": 1.0, "5": 0.9, "8": 0.1, "9": 0.0}),
        architecture=[
            layer("Conv2d", "relu", is_input=True, in_channels=1, out_channels=16, kernel_size=3, padding=1),
            layer("MaxPool2d", kernel_size=2),
            layer("Conv2d", "relu", in_channels=16, out_channels=32, kernel_size=3, padding=1),
            layer("MaxPool2d", kernel_size=2),
            layer("Flatten"),
            linear(128, 4, "softmax"),
        ],
        hyperparameters={
            "algorithm": "FedAvg",
            "rounds": 15,
            "epochs": 1,
            "batch_size": 16,
            "lr": 0.01,
            "optimizer": "Adam",
            "criterion": "CrossEntropyLoss",
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [10, 15]},
            "batch_size": {"_type": "choice", "_value": [8, 16, 32]},
            "lr": {"_type": "uniform", "_value": [0.003, 0.03]},
        },
    ),
    "webster": Example(
        load=webster,
        write=write_texts,
        skew=by_class({"botany": 0.95, "law": 0.95, "music": 0.05, "seafaring": 0.05}),
        architecture=[linear(500, 4, "softmax", is_input=True)],
        hyperparameters={
            "algorithm": "FedAvg",
            "rounds": 15,
            "epochs": 1,
            "batch_size": 16,
            "lr": 0.01,
            "optimizer": "Adam",
            "criterion": "CrossEntropyLoss",
        },
        ranges={
            "rounds": {"_type": "choice", "_value": [10, 15]},
            "batch_size": {"_type": "choice", "_value": [8, 16, 32]},
            "lr": {"_type": "uniform", "_value": [0.003, 0.03]},
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
    rng = np.random.default_rng(SEED)
    dealt = deal(frame["target"], example.classifies, rng)
    pool = np.sort(np.concatenate(dealt["train"]))
    one, other = example.skew(frame["target"].iloc[pool], rng)
    dealt["non_iid_train"] = (pool[one], pool[other])
    for meta, shares in dealt.items():
        for participant, rows in zip(PARTICIPANTS, shares, strict=True):
            example.write(frame.iloc[rows], example.dtypes, folder / name / "dataset" / participant / meta, name)

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
