"""A trained model as MLflow keeps it: weights without pickle, the layers, and the code that runs them.

What `save` writes is loaded by `mlflow.pyfunc.load_model` wherever MLflow, PyTorch, pandas and pydantic are: it carries
the few modules of `synergos` that it needs, which are used where `synergos` is not installed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import synergos
from synergos.federation.layers import Network
from synergos.federation.parameters import Parameters
from synergos.jobs import Layout

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

DESCRIPTION, WEIGHTS = "model.json", "weights.npz"
LABEL = "target_"
_ROWS = 8192
_MODULES = (
    *("__init__", "errors", "jobs", "tracking/__init__", "tracking/model"),
    *(f"federation/{name}" for name in ("__init__", "algorithms", "layers", "objectives", "optimization")),
    *(f"federation/{name}" for name in ("parameters", "wording")),
)


class Model:
    """A model that predicts as the grid does.

    Args:
        folder: with the files that `save` writes.
    """

    def __init__(self, folder: Path) -> None:
        description = json.loads((folder / DESCRIPTION).read_text())
        self.action = description["action"]
        self.layout = Layout.model_validate(description["layout"] or {})
        self._network = Network(description["layers"])
        with np.load(folder / WEIGHTS, allow_pickle=False) as weights:
            self._network.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
        self._network.eval()
        self._parameters = Parameters.read(description["parameters"])
        self.classes = [name.removeprefix(LABEL) for name in self.layout.y] if self.action == "classify" else []

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a column `prediction`, and for classes one `score_<class>` each.

        Args:
            model_input: tables: the aligned columns by name, in their own units, each level of a category as 0 or 1.
                Texts: the features as the worker makes them. Images: pixels 0 to 255, shape (rows, channels, height,
                width). Without an aligned layout: rows as the model takes them.
            params: none are known.
        """
        index = model_input.index if isinstance(model_input, pd.DataFrame) else None
        X = self._features(model_input)
        with torch.inference_mode():
            raw = torch.cat([self._network.raw(torch.from_numpy(X[at : at + _ROWS])) for at in range(0, len(X), _ROWS)])
            objective = self._parameters.objective(self.action, self._network.final, raw.shape[1])
            scores = objective.scores(raw)
            decisions = objective.decide(scores).numpy()
        if self.action == "regress":
            return pd.DataFrame({"prediction": decisions.astype(np.float64)}, index=index)
        table = scores.numpy().astype(np.float64)
        if table.shape[1] == 1:
            table = np.hstack([1 - table, table])
        names = self.classes or [str(number) for number in range(table.shape[1])]
        columns = {f"score_{name}": table[:, number] for number, name in enumerate(names)}
        return pd.DataFrame({"prediction": np.array(names, dtype=object)[decisions], **columns}, index=index)

    def _features(self, given: Any) -> NDArray[np.float32]:
        if not isinstance(given, pd.DataFrame):
            values = np.asarray(given)
            return _float32(values) / np.float32(255 if self.layout.datatype == "image" else 1)
        if not self.layout.X:
            return _float32(given.to_numpy())
        if missing := [name for name in self.layout.X if name not in given]:
            raise ValueError(f"The input lacks the columns {', '.join(missing)}.")
        result = np.empty((len(given), len(self.layout.X)), dtype=np.float32)
        for place, name in enumerate(self.layout.X):
            mean, deviation = self.layout.scaling.get(name, (0.0, 1.0))
            result[:, place] = ((given[name].to_numpy(np.float64) - mean) / deviation).astype(np.float32)
        return result


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, dtype=np.float32)


def _load_pyfunc(path: str) -> Model:
    """MLflow calls this with the folder of the data."""
    return Model(Path(path))


def save(folder: Path, weights: Path, description: dict[str, Any], run_id: str, model_id: str) -> None:
    """Write a model as MLflow keeps it.

    Args:
        folder: new folder.
        weights: file with the state that torch saved.
        description: `action`, `layers`, `parameters` and `layout` (None for none).
        run_id: MLflow's id of the run.
        model_id: MLflow's id of the model.
    """
    from mlflow import pyfunc
    from mlflow.models import Model as Record

    parts = folder.with_name(f"{folder.name}.parts")
    shutil.rmtree(parts, ignore_errors=True)
    data, code = parts / "data", parts / "synergos"
    data.mkdir(parents=True)
    (data / DESCRIPTION).write_text(json.dumps(description, indent=1))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    np.savez(data / WEIGHTS, **{name: value.numpy() for name, value in state.items()})
    own = Path(synergos.__file__).parent
    for module in _MODULES:
        (code / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(own / f"{module}.py", code / f"{module}.py")
    pyfunc.save_model(
        path=folder,
        loader_module="synergos.tracking.model",
        data_path=str(data),
        code_paths=[str(code)],
        mlflow_model=Record(artifact_path=folder.name, run_id=run_id, model_id=model_id),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy", "pandas", "pydantic>=2.10,<3"],
        signature=_signature(Model(data), description),
    )
    shutil.rmtree(parts)


def _signature(model: Model, description: dict[str, Any]) -> ModelSignature | None:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    layout = model.layout
    if not (layout.X or layout.shape):
        return None
    if layout.datatype == "image":
        inputs = Schema([TensorSpec(np.dtype(np.uint8), (-1, *layout.shape))])
    else:
        inputs = Schema([ColSpec(DataType.double, name) for name in layout.X])
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double if model.action == "regress" else DataType.string, "prediction")
    ]
    outputs += [ColSpec(DataType.double, f"score_{name}") for name in model.classes]
    return ModelSignature(inputs, Schema(outputs))
