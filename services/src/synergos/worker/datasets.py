"""A participant's data of any kind: from tags to what may be told about it, and from there to rows for training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ValidationError

from synergos.errors import Invalid
from synergos.jobs import Action, Layout, Meta, Tags
from synergos.worker import files, images, tabular, texts
from synergos.worker.outputs import as_json
from synergos.worker.prepared import Aligned, Header, Own, Prepared, Source, Told, align
from synergos.worker.tags import METADATA, resolve

Folders = dict[Meta, list[Path]]

_OPERATIONS: dict[str, type[BaseModel]] = {
    "tabular": tabular.Operations,
    "image": images.Operations,
    "text": texts.Operations,
}


class Preparation(BaseModel):
    """What a poll leaves: what is told, and where the rows are.

    Attributes:
        headers, schemas, metadata: per meta, as they leave the worker.
        own: per meta, all names.
        exports: meta → paths: `X` (tables, images), `y` and `dataframe`.
    """

    headers: dict[Meta, Header]
    schemas: dict[Meta, dict[str, str]]
    metadata: dict[Meta, dict[str, Any]]
    own: dict[Meta, Own]
    exports: dict[Meta, dict[str, str]]

    def told(self) -> dict[str, Any]:
        """Return what leaves the worker, as JSON."""
        return self.model_dump(mode="json", include={"headers", "schemas", "metadata"})

    @property
    def complete(self) -> bool:
        """Whether all files are still there."""
        prepared = ("X", "y", "dataframe")
        return all(Path(paths[kind]).exists() for paths in self.exports.values() for kind in prepared if kind in paths)


def prepare(
    root: Path,
    tags: Tags,
    action: Action,
    folder: Path,
    *,
    minimum_rows: int = 1,
    layout: Layout | None = None,
    final: Path | None = None,
) -> Preparation:
    """Read the data of `tags` and store it in `folder`, which exists.

    Args:
        root: data folder of the participant.
        minimum_rows: what fewer rows share is not told.
        layout: names that the orchestrator knows anyway.
        final: where `folder` will be when the result is used; `folder` itself if left out.

    Raises:
        Invalid: data that cannot be used, or a file that cannot be written; the message names it.
        OSError: as for `Invalid`, where the file does not matter.
    """
    folders = resolve(root, tags)
    sets = _load(root, folders, action, minimum_rows)
    if (rows := len(sets["train"].frame)) < minimum_rows:
        raise Invalid(
            f"The train set has {rows} rows with a label; this worker takes part with {minimum_rows} or more "
            "(--minimum-rows), since figures of fewer would describe single rows."
        )
    told = _told(sets.values(), minimum_rows, layout or Layout())
    result = Preparation(headers={}, schemas={}, metadata={}, own={}, exports={})
    for meta, each in sets.items():
        names, facts = each.tell(told, meta)
        label_names = [name for name in each.labels if action == "regress" or name in told.y]
        if each.labels and not label_names and meta != "predict":
            raise Invalid(
                f"No class has {minimum_rows} rows or more in the sets of this participant (--minimum-rows): "
                f"the {meta} set would be empty."
            )
        result.headers[meta] = Header(X=names, y=label_names)
        result.schemas[meta] = each.schema
        result.metadata[meta] = {"src_count": len(each.frame), "_type": _KINDS[type(each)], **facts}
        if action == "classify" and meta == "train":
            result.metadata[meta]["classes"] = {n: rows for n, rows in _classes(each).items() if n in told.y}
        result.own[meta] = each.own()
        result.exports[meta] = _store(each, folder, final or folder, meta)
    (folder / "catalogue.json").write_text(as_json(result.told()))
    return result


def aligned(data: Preparation, layout: Layout, action: Action) -> dict[Meta, Aligned]:
    """Return every set in the shared layout.

    Raises:
        FeatureDrift: the layout has no place for something in the data.
        Invalid: the files are gone or were replaced, or a value does not fit.
    """
    return {meta: align(_read(data, meta, action), layout, data.headers[meta], meta) for meta in data.exports}


_KINDS: dict[type[Source], str] = {tabular.Table: "tabular", images.Images: "image", texts.Texts: "text"}


def _load(root: Path, folders: Folders, action: Action, minimum_rows: int) -> dict[Meta, Source]:
    operations = _agreed(root, [folder for each in folders.values() for folder in each])
    if isinstance(operations, images.Operations):
        return images.load(root, folders, action, operations)
    if isinstance(operations, texts.Operations):
        return texts.load(root, folders, action, operations)
    return tabular.load(root, folders, action, minimum_rows)


def _agreed(root: Path, folders: Sequence[Path]) -> BaseModel:
    """Return the operations that all data sets ask for; their type says the kind of data."""
    first, *others = [(folder, *_describe(root, folder / METADATA)) for folder in folders]
    for folder, datatype, operations in others:
        if datatype != first[1]:
            raise Invalid(
                f"{files.shown(root, folder)} is {datatype}, but {files.shown(root, first[0])} is {first[1]}: "
                "a project has one kind of data."
            )
        if datatype != "tabular" and operations != first[2]:
            raise Invalid(
                f"{files.shown(root, folder / METADATA)} and {files.shown(root, first[0] / METADATA)} ask for "
                "different operations: all data sets of a project are prepared alike."
            )
    return first[2]


def _describe(root: Path, path: Path) -> tuple[str, BaseModel]:
    shown = files.shown(root, path)
    try:
        content = json.loads(path.read_text("utf-8-sig"))
        datatype = content["datatype"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Invalid(f'{shown} is not usable: it has to be JSON like {{"datatype": "tabular"}}.') from None
    kinds = ", ".join(repr(kind) for kind in _OPERATIONS)
    if not isinstance(datatype, str) or datatype not in _OPERATIONS:
        raise Invalid(f"{shown}: datatype {datatype!r} is unknown; {kinds} are supported.")
    # What is called operations was called exclusions before.
    if unknown := sorted(content.keys() - {"datatype", "operations", "exclusions"}):
        raise Invalid(f"{shown}: unknown {', '.join(unknown)}; it takes datatype and operations.")
    model = _OPERATIONS[datatype]
    try:
        return datatype, model.model_validate(content.get("operations", content.get("exclusions")) or {})
    except ValidationError as error:
        wrong = error.errors()[0]
        known = ", ".join(model.model_fields)
        if wrong["type"] == "extra_forbidden":
            raise Invalid(f"{shown}: unknown operation {wrong['loc'][0]!r}; {datatype} data takes {known}.") from None
        if not wrong["loc"]:
            raise Invalid(f"{shown}: operations has to be an object of names and values.") from None
        text = wrong["msg"].removeprefix("Value error, ")
        raise Invalid(f"{shown}: {wrong['loc'][0]}: {text[:1].lower()}{text[1:]}.") from None


def _told(sets: Iterable[Source], minimum_rows: int, layout: Layout) -> Told:
    features: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    for each in sets:
        features.update(each.counts())
        if each.action == "classify":
            classes.update(_classes(each))
    X, y = ({name for name, rows in counted.items() if rows >= minimum_rows} for counted in (features, classes))
    return Told(minimum_rows, frozenset(X.union(layout.X)), frozenset(y.union(layout.y)))


def _classes(source: Source) -> dict[str, int]:
    """Return label name → rows."""
    return dict(zip(source.labels, source.y.sum(axis=0).astype(int).tolist(), strict=True))


def _store(source: Source, folder: Path, final: Path, meta: Meta) -> dict[str, str]:
    names = {"X": f"preprocessed_X_{meta}.npy", "y": f"preprocessed_y_{meta}.npy"}
    names["dataframe"] = f"combined_dataframe_{meta}.csv"
    if not source.store(folder / names["X"]):
        del names["X"]
    np.save(folder / names["y"], source.y, allow_pickle=False)
    source.frame.to_csv(folder / names["dataframe"])
    return {kind: str(final / name) for kind, name in names.items()}


def _read(data: Preparation, meta: Meta, action: Action) -> Prepared:
    """Read back one set. Raises `Invalid` if it is gone or not what the poll left."""
    paths, own, kind = data.exports[meta], data.own[meta], data.metadata[meta]["_type"]
    X: Any = None
    try:
        y = np.load(paths["y"], allow_pickle=False)
        if kind == "text":
            frame = pd.read_csv(paths["dataframe"], dtype=str, keep_default_na=False)
        else:
            # By position: a table may have columns of these names.
            frame = pd.read_csv(paths["dataframe"], usecols=[0, 1], dtype={0: str}).set_axis(["file", "row"], axis=1)
            X = np.load(paths["X"], mmap_mode="r" if kind == "image" else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Invalid(f"The prepared data is not readable any more, poll again: {error}.") from None
    rows = pd.MultiIndex.from_arrays([frame["file"], frame["row"].astype(int)], names=["file", "row"])
    shapes = [len(rows), (len(rows), len(own.y))]
    found = [len(rows) if X is None else len(X), y.shape]
    if shapes != found or (kind == "tabular" and X.shape[1] != len(own.X)):
        raise Invalid("The prepared data was replaced since the poll: poll again.")
    if kind == "text":
        return texts.Words(action, own.y, y, rows, frame[texts.TEXT].tolist())
    if kind == "image":
        return images.Pixels(action, own.y, y, rows, Path(paths["X"]), X)
    return tabular.Columns(action, own.y, y, rows, own.X, X, own.buckets)
