"""Messages as bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from synergos.federation import codec


def message(records: Any, tail: bytes = b"") -> bytes:
    header = json.dumps(records).encode()
    return struct.pack(">I", len(header)) + header + tail


def test_round_trip() -> None:
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "steps": np.asarray(7),
        "empty": np.zeros((0, 4), dtype=np.float64),
        "mask": np.asarray([True, False]),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    record = ArrayRecord()
    for name, value in arrays.items():
        record[name] = codec.to_array(value)
    content = RecordDict(
        {
            "arrays": record,
            "config": ConfigRecord({"a": 1, "b": 0.5, "c": "ü", "d": True, "e": [1, 2]}),
            "metrics": MetricRecord({"n": 3, "loss": 0.25, "list": [0.5]}),
        }
    )
    raw = codec.encode(content)
    back = codec.decode(raw)
    assert back == content
    for name, value in arrays.items():
        np.testing.assert_array_equal(back["arrays"][name].numpy(), value)
        # Flower's own reading of the same bytes.
        array = back["arrays"][name]
        np.testing.assert_array_equal(Array(array.dtype, array.shape, array.stype, array.data).numpy(), value)
    arrays["turned"] = np.ascontiguousarray(arrays["turned"])
    own = RecordDict({"arrays": ArrayRecord({name: Array(value) for name, value in arrays.items()})})
    assert codec.encode(own) == codec.encode(RecordDict({"arrays": record}))
    # No more than the elements and the names travel.
    assert len(raw) < sum(value.nbytes for value in arrays.values()) + 500


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00",
        struct.pack(">I", 2**31) + b"{}",
        struct.pack(">I", 2) + b"{}",
        struct.pack(">I", 4) + b"nope",
        message([], tail=b"unannounced"),
        message([["a", "array", [["w", "float32", [2**40, 2**40]]]]]),
        message([["a", "array", [["w", "float32", [-1]]]]]),
        message([["a", "array", [["w", "float32", [True]]]]], tail=b"1234"),
        message([["a", "array", [["w", "float32", [2]]]]], tail=b"1234"),
        message([["a", "array", [["w", "object", [1]]]]], tail=b"12345678"),
        message([["a", "array", [["w", "S4", [1]]]]], tail=b"1234"),
        message([["a", "array", [[1, "float32", [1]]]]], tail=b"1234"),
        message([["a", "array", [["w", "float32", [1] * 40]]]], tail=b"1234"),
        message([["a", "array", "x"]]),
        message([["a", "pickle", {}]]),
        message([["m", "metric", {"loss": "text"}]]),
        message([["c", "config", {"nested": {"a": 1}}]]),
        message([["m", "metric", {"loss": float("nan")}]]),
        message([["m", "metric", {"loss": float("inf")}]]),
        message(["abc"]),
        message([[["m"], "metric", {}]]),
        struct.pack(">I", 100_000) + b"[" * 100_000,
    ],
)
def test_unreadable_bytes(raw: bytes) -> None:
    with pytest.raises(codec.Malformed):
        codec.decode(raw)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_damaged_bytes_are_never_anything_else(noise: bytes, place: int) -> None:
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(np.ones(3, dtype=np.float32))}), "m": MetricRecord({"n": 1})}
    )
    full = codec.encode(content)
    known = codec.header_of(full) or b""
    for raw in (full, codec.encode(content, known)):
        for damaged in (noise, raw[:place] + noise + raw[place + len(noise) :], raw[: place % len(raw)]):
            try:
                codec.decode(damaged, known)
            except codec.Malformed as error:
                assert error.status in (400, 428)


def test_a_header_that_differs_little_is_sent_as_the_difference() -> None:
    def content(number: int) -> RecordDict:
        settings = {"architecture": json.dumps([{"layer": i} for i in range(1000)]), "server-round": number}
        return RecordDict({"config": ConfigRecord(settings), "arrays": ArrayRecord({"w": Array(np.ones(3))})})

    full = codec.encode(content(1))
    known = codec.header_of(full)
    assert known is not None
    short = codec.encode(content(2), known)
    assert codec.header_of(short) is None
    assert codec.decode(short, known) == codec.decode(codec.encode(content(2)))
    assert len(full) > 14_000
    assert len(short) < len(full) / 50
    for other in (b"", known + b" "):
        with pytest.raises(codec.Unheard):
            codec.decode(short, other)


def test_a_header_that_swells_is_refused() -> None:
    header = codec.preamble(b" " * (codec.MAX_HEADER + 1), b"[]")
    assert len(header) < 10_000
    with pytest.raises(codec.Malformed, match="too long"):
        codec.decode(header, b"[]")


def test_a_loss_that_is_no_number_is_not_sent() -> None:
    with pytest.raises(ValueError, match="nan"):
        codec.encode(RecordDict({"m": MetricRecord({"loss": float("nan")})}))
