"""What a user reads about data that cannot be used: the whole answer of a poll, for every kind of mistake."""

# Messages stay in one piece.
# ruff: noqa: E501

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pictures import draw
from PIL import Image

from synergos.federation.sessions import Sessions
from synergos.worker.app import create_app


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    draw(height, width, 1).save(buffer, "PNG")
    return buffer.getvalue()


def blank(height: int, width: int) -> bytes:
    """A small file that unpacks into a large image."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


TABLE = {"datatype": "tabular", "operations": {}}
IMAGE = {"datatype": "image", "operations": {}}
TEXT = {"datatype": "text", "operations": {}}
SCHEMA = {"a": "float64", "c": "category", "target": "category"}
ROWS = "a,c,target\n" + "1,F,0\n2,F,1\n3,M,0\n4,M,1\n5,F,0\n6,M,1\n" * 2
TEXTS = "text,target\n" + "good day,a\nbad day,b\n" * 6
LISTED = "image,target\n" + "".join(f"{row}.png,{'ab'[row % 2]}\n" for row in range(10))
PICTURES = {f"{row}.png": png(3, 3) for row in range(10)}


def table(csv: Any = ROWS, schema: Any = SCHEMA, metadata: Any = TABLE) -> dict[str, Any]:
    return {"data.csv": csv, "schema.json": schema, "metadata.json": metadata}


def pictures(mapping: Any = LISTED, metadata: Any = IMAGE, **files: Any) -> dict[str, Any]:
    return {**PICTURES, "mapping.csv": mapping, "metadata.json": metadata, **files}


def texts(csv: Any = TEXTS, metadata: Any = TEXT) -> dict[str, Any]:
    return {"data.csv": csv, "metadata.json": metadata}


@dataclass(frozen=True)
class Case:
    """Files of the sets d/train, d/evaluate and d/predict, and what is said about them."""

    message: str
    sets: dict[str, dict[str, Any]]
    action: str
    tags: dict[str, list[list[str]]]


CASES: dict[str, Case] = {}


def case(
    title: str, train: dict[str, Any], message: str, action: str = "classify", tags: Any = None, **others: Any
) -> None:
    sets = {"train": train, **others}
    CASES[title] = Case(message, sets, action, tags or {meta: [["d", meta]] for meta in sets})


# metadata.json
case(
    "metadata no json",
    table(metadata="tabular"),
    'd/train/metadata.json is not usable: it has to be JSON like {"datatype": "tabular"}.',
)
case(
    "metadata a list",
    table(metadata=[]),
    'd/train/metadata.json is not usable: it has to be JSON like {"datatype": "tabular"}.',
)
case(
    "no datatype",
    table(metadata={}),
    'd/train/metadata.json is not usable: it has to be JSON like {"datatype": "tabular"}.',
)
case(
    "sound",
    table(metadata={"datatype": "sound"}),
    "d/train/metadata.json: datatype 'sound' is unknown; 'tabular', 'image', 'text' are supported.",
)
case(
    "unknown key",
    table(metadata={"datatype": "tabular", "operation": {}}),
    "d/train/metadata.json: unknown operation; it takes datatype and operations.",
)
case(
    "unknown operation",
    table(metadata={"datatype": "tabular", "operations": {"sed": 1}}),
    "d/train/metadata.json: unknown operation 'sed'; tabular data takes seed, boost_iter, thread_count.",
)
case(
    "operations no object",
    texts(metadata={"datatype": "text", "operations": [1]}),
    "d/train/metadata.json: operations has to be an object of names and values.",
)
case(
    "two kinds", table(), "d/predict is text, but d/train is tabular: a project has one kind of data.", predict=texts()
)
# Tables
case(
    "no schema",
    table(schema=None),
    'd/train/schema.json is missing: it declares each column\'s dtype, for example {"age": "int32"}.',
)
case(
    "schema no json",
    table(schema="{"),
    "d/train/schema.json is not readable as JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1).",
)
case(
    "schema a list",
    table(schema=["a"]),
    'd/train/schema.json has to be one JSON object of column and dtype, for example {"age": "int32"}.',
)
case(
    "schema nested",
    table(schema={"a": {}}),
    'd/train/schema.json has to be one JSON object of column and dtype, for example {"age": "int32"}.',
)
case(
    "unknown dtype",
    table(schema={**SCHEMA, "a": "string"}),
    "d/train/schema.json: column 'a' has the unknown dtype 'string'; use 'category', 'int8' to 'int64', 'uint8' to 'uint64', or 'float16' to 'float64'.",
)
case(
    "no target in schema",
    table(schema={"a": "float64", "c": "category"}),
    "d/train/schema.json: the label column 'target' is missing; columns are a, c.",
)
case(
    "columns differ",
    table(csv="a,d,target\n1,2,0\n", schema={**SCHEMA, "e": "int8"}),
    "d/train/data.csv and its schema.json differ: only in the schema: c, e; only in the csv: d.",
)
case(
    "no header",
    table(csv="63,1,0\n41,2,1\n"),
    "d/train/data.csv has none of the columns of its schema.json (a, c, target) in its first line: the header is missing, or the separator is no comma.",
)
case(
    "semicolons",
    table(csv="a;c;target\n1;F;0\n"),
    "d/train/data.csv has none of the columns of its schema.json (a, c, target) in its first line: the header is missing, or the separator is no comma.",
)
case("no csv", table(csv=None), "d/train holds no csv file.")
case("empty csv", table(csv=""), "d/train/data.csv is empty.")
case("no rows", table(csv="a,c,target\n"), "d/train/data.csv has a header but no rows.")
case(
    "ragged",
    table(csv=ROWS + "1,F,0,9\n"),
    "d/train/data.csv is not readable as csv: Error tokenizing data. C error: Expected 3 fields in line 14, saw 4.",
)
case(
    "first row too long",
    table(csv="a,c,target\n1,F,0,7\n2,M,1\n"),
    "d/train/data.csv is not readable as csv: the first row has more cells than the header.",
)
case(
    "open quote",
    table(csv='a,c,target\n1,"F,0\n'),
    "d/train/data.csv is not readable as csv: Error tokenizing data. C error: EOF inside string starting at row 1.",
)
case(
    "not utf-8",
    table(csv=b"a,c,target\n1,\xff\xfe,0\n"),
    "d/train/data.csv is not readable as csv: 'utf-8' codec can't decode byte 0xff in position 13: invalid start byte.",
)
case(
    "index column",
    table(csv=",a,c,target\n0,1,F,0\n"),
    "d/train/data.csv: column 1 has no name; was the file written with an index column?",
)
case("column twice", table(csv="a,a,c,target\n1,1,F,0\n"), "d/train/data.csv: columns 1 and 2 have the same name.")
case(
    "text as number",
    table(schema={**SCHEMA, "c": "float32"}),
    "d/train/data.csv: column 'c' is declared float32, but no cell is a number: declare it 'category' or correct the file.",
)
case(
    "numbers too large",
    table(csv=ROWS + "1e200,F,0\n-1e200,M,1\n"),
    "Column 'a' of the train set holds values that are too large: rescale it.",
)
case(
    "fraction as integer",
    table(csv="a,c,target\n1,F,0\n1.5,F,0\n", schema={**SCHEMA, "a": "int32"}),
    "d/train/data.csv: column 'a' is declared int32, but row 1 (counted from 0) holds a fraction: declare it 'float64'.",
)
case("no labels", table(csv="a,c,target\n1,F,\n"), "No row of the train set (d/train) has a usable label in 'target'.")
case(
    "classes for regress",
    table(),
    "d/train/schema.json: 'target' is a category, but regress needs numbers: declare 'float64' or classify.",
    action="regress",
)
case(
    "floats for classify",
    table(schema={**SCHEMA, "target": "float64"}),
    "d/train/schema.json: 'target' is float64, but classify needs classes: declare 'category'.",
)
case(
    "only labels",
    table(csv="target\n" + "0\n1\n" * 6, schema={"target": "category"}),
    "The train set has no feature column that holds anything.",
)
case(
    "one name for two",
    table(csv="a,a_1,target\n" + "1,5,0\n" * 6, schema={"a": "category", "a_1": "int8", "target": "int8"}),
    "Two columns become one name after one-hot, 'a_1' or a level of it and another: rename one of them.",
)
case(
    "too many levels",
    table(csv="a,c,target\n" + "".join(f"1,n{i},0\n" for i in range(1001))),
    "Column 'c' is a category with 1001 different values, more than 1000: declare it as a number or leave it out.",
)
case(
    "other kind elsewhere",
    table(),
    "Column 'c' is a category in the train set and a number in the predict set: every schema.json must give it the same kind.",
    predict=table(csv="a,c,target\n1,5,0\n", schema={**SCHEMA, "c": "int32"}),
)
# Privacy threshold
case(
    "few rows",
    table(csv="a,c,target\n" + "1,F,0\n" * 4),
    "The train set has 4 rows with a label; this worker takes part with 5 or more (--minimum-rows), since figures of fewer would describe single rows.",
)
case(
    "rare classes",
    table(csv="a,c,target\n" + "".join(f"1,F,{row}\n" for row in range(6))),
    "No class has 5 rows or more in the sets of this participant (--minimum-rows): the train set would be empty.",
)
case(
    "rare words",
    texts(csv="text,target\n" + "".join(f"word{row},a\n" for row in range(6))),
    "No word is in at least 5 rows of the train set after cleaning: give it more rows, or switch off operations in metadata.json.",
)
# Images
case(
    "no mapping",
    pictures(mapping=None),
    "d/train/mapping.csv is missing: it lists the images with their labels under the header 'image,target'.",
)
case(
    "wrong header",
    pictures(mapping="file,label\n0.png,a\n"),
    "d/train/mapping.csv: the first line has to be 'image,target'.",
)
case(
    "missing file",
    pictures(mapping=LISTED + "10.png,a\n"),
    "d/train/mapping.csv: '10.png' in row 10 (counted from 0) is no file beside it. Correct the name (upper and lower case count), or remove the row.",
)
case(
    "file outside",
    pictures(mapping=LISTED + "../train/0.png,a\n../../x.png,b\n"),
    "d/train/mapping.csv: '../../x.png' in row 11 (counted from 0) is no file beside it. Correct the name (upper and lower case count), or remove the row.",
)
case("no file name", pictures(mapping=LISTED + ",a\n"), "d/train/mapping.csv: row 10 (counted from 0) names no image.")
case(
    "several labels",
    pictures(mapping=LISTED + "0.png,b\n"),
    "d/train/mapping.csv lists '0.png' with different labels (rows 0, 10, counted from 0): every image has one label.",
)
case(
    "images without labels",
    pictures(mapping="image,target\n0.png,\n"),
    "No row of the train set (d/train) has a usable label in 'target'.",
)
case(
    "label column missing",
    pictures(mapping="image\n0.png\n"),
    "d/train/mapping.csv: the first line has to be 'image,target'.",
)
case(
    "words for regress",
    pictures(),
    "d/train/mapping.csv: the label in row 0 (counted from 0) is not a number, but regress needs numbers.",
    action="regress",
)
case(
    "no image",
    pictures(**{"3.png": b"GIF? no"}),
    "d/train/3.png is not an image, or in a format that cannot be read: use PNG or JPEG.",
)
case("cut off", pictures(**{"3.png": png(30, 30)[:900]}), "d/train/3.png is damaged: image file is truncated.")
case(
    "bomb",
    pictures(**{"3.png": blank(30_000, 30_000)}),
    "d/train/3.png has more than 50 million pixels: make it smaller.",
)
case(
    "large",
    pictures(**{"3.png": blank(8_000, 8_000)}),
    "d/train/3.png has more than 50 million pixels: make it smaller.",
)
case(
    "no boolean",
    pictures(metadata={"datatype": "image", "operations": {"use_grayscale": "yes"}}),
    "d/train/metadata.json: use_grayscale: input should be a valid boolean.",
)
case(
    "image_size",
    pictures(metadata={"datatype": "image", "operations": {"image_size": [28]}}),
    "d/train/metadata.json: image_size: has to be [height, width] in pixels, each from 1 to 4096.",
)
case(
    "deepaugment",
    pictures(metadata={"datatype": "image", "operations": {"use_deepaugment": True}}),
    "use_deepaugment is not offered: it never did anything, and images are trained on as they are. Set it to false or leave it out.",
)
case(
    "image operation",
    pictures(metadata={"datatype": "image", "operations": {"grayscale": True}}),
    "d/train/metadata.json: unknown operation 'grayscale'; image data takes use_grayscale, use_alpha, image_size, use_deepaugment.",
)
case(
    "operations differ",
    pictures(),
    "d/evaluate/metadata.json and d/train/metadata.json ask for different operations: all data sets of a project are prepared alike.",
    evaluate=pictures(metadata={"datatype": "image", "operations": {"use_grayscale": False}}),
)
# Texts
case(
    "three columns",
    texts(csv="id,text,target\n1,good,a\n"),
    "d/train/data.csv has 3 column(s): a csv of texts has two, the text and its label.",
)
case(
    "no label column",
    texts(csv="text\ngood\n"),
    "d/train/data.csv has 1 column(s): a csv of texts has two, the text and its label.",
)
case(
    "no words",
    texts(csv="text,target\n" + "the,a\n" * 6),
    "No word is in at least 5 rows of the train set after cleaning: give it more rows, or switch off operations in metadata.json.",
)
case(
    "texts no number",
    texts(),
    "d/train/data.csv: the label in row 0 (counted from 0) is not a number, but regress needs numbers.",
    action="regress",
)
case(
    "accents",
    texts(metadata={"datatype": "text", "operations": {"strip_accents": "all"}}),
    "d/train/metadata.json: strip_accents: input should be 'unicode' or 'ascii'.",
)
case(
    "text operation",
    texts(metadata={"datatype": "text", "operations": {"stopwords": False}}),
    "d/train/metadata.json: unknown operation 'stopwords'; text data takes max_df, max_features, strip_accents, keep_html, keep_contractions, keep_punctuations, keep_numbers, keep_stopwords, spellcheck, lemmatize.",
)
# Tags
case(
    "no train tag",
    table(),
    "No train tag is given: the training set decides how all sets are prepared.",
    tags={"predict": [["d", "train"]]},
)
case("wrong tag", table(), "Tag 'd/trian' fits no data set. Nearest: d/train.", tags={"train": [["d", "trian"]]})
case(
    "ambiguous tag",
    table(),
    "Tag 'd' is ambiguous, it fits d/evaluate, d/train: add tokens until only one is left.",
    evaluate=table(),
    tags={"train": [["d"]]},
)
case(
    "tag as a path",
    table(),
    'Tag [\'d/train\']: token \'d/train\' is not usable; a tag lists the names of folders one by one, for example ["abalone", "dataset", "data1", "train"].',
    tags={"train": [["d/train"]]},
)
case(
    "tag twice",
    table(),
    "The train tags name one data set twice: [['d', 'train'], ['train', 'd']].",
    tags={"train": [["d", "train"], ["train", "d"]]},
)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_message(tmp_path: Path, case: Case) -> None:
    for meta, files in case.sets.items():
        for name, content in files.items():
            if content is None:
                continue
            path = tmp_path / "data/d" / meta / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content) if isinstance(content, dict | list) else content
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    http = TestClient(create_app(tmp_path / "data", tmp_path / "outputs", Sessions()))
    body = {"action": case.action, "tags": case.tags}
    reply = http.post("/worker/poll/c/p", json=body)
    deadline = time.monotonic() + 30
    while reply.status_code in (202, 406) and time.monotonic() < deadline:
        reply = http.request("GET", "/worker/poll/c/p", json=body)
        time.sleep(0.01)
    assert (reply.status_code, reply.json().get("message")) == (417, case.message)
    assert not list((tmp_path / "outputs").glob("*"))
