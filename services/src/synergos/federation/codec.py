"""Flower records as bytes and back, without pickle and without trust in the sender.

A message is a 4-byte big-endian length, a JSON header of that length, and the arrays' elements (C order, little-endian)
in the header's order::

    [["arrays", "array", [["nnl_0_linear.weight", "float32", [1, 10]], ...]],
     ["config", "config", {...}], ["metrics", "metric", {...}]]
"""

from __future__ import annotations

import functools
import io
import json
import math
import struct
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from synergos.errors import SynergosError

MAX_MESSAGE = 512 * 1024 * 1024
MAX_HEADER = 4 * 1024 * 1024
DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
MAX_DIMENSIONS = 16
MEDIA_TYPE = "application/octet-stream"
_STYPE = "numpy.ndarray"
_SIMPLE = {"config": ConfigRecord, "metric": MetricRecord}


class Malformed(SynergosError):
    """Bytes that are no message."""

    status = 400


class _Plain(Array):
    """A NumPy array in C order, whose elements are there to be read as they lie: nothing is parsed or copied."""

    def numpy(self) -> NDArray[Any]:
        return np.frombuffer(_elements(self), dtype=self.dtype).reshape(self.shape)


def to_array(values: NDArray[Any]) -> Array:
    """Return `values` as Flower's array; its `numpy()` is a read-only view."""
    dtype, shape = str(values.dtype), values.shape
    prefix, _ = _layout(dtype, shape)
    return _Plain(dtype=dtype, shape=shape, stype=_STYPE, data=prefix + values.tobytes())


def encode(content: RecordDict) -> bytes:
    """Return the message with this `content`; NaN and infinity in metrics and settings are refused (ValueError)."""
    return b"".join(pieces(content))


def pieces(content: RecordDict) -> list[bytes | memoryview]:
    """Return the message in pieces, of which those with the arrays' elements are views."""
    records: list[tuple[str, str, Any]] = []
    elements: list[memoryview] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            records.append((name, "array", [(key, array.dtype, array.shape) for key, array in record.items()]))
            elements.extend(_elements(array) for array in record.values())
        else:
            records.append((name, "config" if isinstance(record, ConfigRecord) else "metric", dict(record)))
    header = json.dumps(records, allow_nan=False, separators=(",", ":")).encode()
    return [struct.pack(">I", len(header)), header, *elements]


def decode(raw: bytes | bytearray) -> RecordDict:
    """Return the content of a message; raises `Malformed`.

    Nothing is allocated for an array before the message is known to hold it.
    """
    if len(raw) < 4:
        raise Malformed("The message is shorter than its 4-byte length field.")
    (size,) = struct.unpack_from(">I", raw)
    if size > min(MAX_HEADER, len(raw) - 4):
        raise Malformed(f"The message announces a header of {size} bytes and holds {len(raw) - 4} bytes.")
    try:
        records = json.loads(raw[4 : 4 + size], parse_constant=_refuse)
        if not isinstance(records, list):
            raise ValueError("the header is no list of records")
        content, rest = RecordDict(), memoryview(raw)[4 + size :]
        for name, kind, payload in records:
            if kind == "array":
                record = ArrayRecord()
                for key, dtype, dimensions in payload:
                    shape = _shape(dimensions)
                    prefix, length = _layout(dtype, shape)
                    if length > len(rest):
                        raise ValueError(f"array {key!r} needs {length} bytes, {len(rest)} are left")
                    data = b"".join((prefix, rest[:length]))
                    record[key] = _Plain(dtype=dtype, shape=shape, stype=_STYPE, data=data)
                    rest = rest[length:]
                content[name] = record
            else:
                content[name] = _SIMPLE[kind](payload)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"The message cannot be read: {error}") from None
    if rest:
        raise Malformed(f"The message holds {len(rest)} bytes that its header does not mention.")
    return content


def _shape(shape: list[int]) -> tuple[int, ...]:
    # isinstance would let true and false pass as numbers.
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape} is not a shape")
    return tuple(shape)


def _elements(array: Array) -> memoryview:
    prefix, length = _layout(array.dtype, tuple(array.shape))
    if not array.data.startswith(prefix) or len(array.data) != len(prefix) + length:
        raise ValueError(f"not a NumPy array {array.dtype}{array.shape} in C order")
    return memoryview(array.data)[len(prefix) :]


@functools.lru_cache(maxsize=4096)
def _layout(dtype: str, shape: tuple[int, ...]) -> tuple[bytes, int]:
    """Return what NumPy's file format puts before such an array, and the array's length in bytes."""
    if dtype not in DTYPES:
        raise ValueError(f"element type {dtype!r} is not one of {', '.join(sorted(DTYPES))}")
    element = np.dtype(dtype)
    buffer = io.BytesIO()
    description = {"descr": element.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)  # type: ignore[no-untyped-call]
    return buffer.getvalue(), math.prod(shape) * element.itemsize


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a JSON number")
