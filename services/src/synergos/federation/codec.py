"""Flower records as bytes and back, without pickle and without trust in the sender.

A message is a 4-byte big-endian length, a JSON header of that length, and the arrays' bytes in the header's order::

    {"head": {...}, "records": [["arrays", "array", [["nnl_0_linear.weight", "float32", [1, 10], 168], ...]],
                                ["config", "config", {...}], ["metrics", "metric", {...}]]}
"""

from __future__ import annotations

import io
import json
import math
import struct
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from synergos.errors import SynergosError

MAX_MESSAGE = 512 * 1024 * 1024
MAX_HEADER = 4 * 1024 * 1024
DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
MEDIA_TYPE = "application/octet-stream"
_STYPE = "numpy.ndarray"
_SIMPLE = {"config": ConfigRecord, "metric": MetricRecord}


class Malformed(SynergosError):
    """Bytes that are no message."""

    status = 400


def encode(head: dict[str, Any], content: RecordDict) -> bytes:
    """Return the message of `head` (plain JSON values) and `content`; NaN and infinity are refused (ValueError)."""
    records: list[tuple[str, str, Any]] = []
    blobs: list[bytes] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            records.append((name, "array", [(k, a.dtype, a.shape, len(a.data)) for k, a in record.items()]))
            blobs.extend(a.data for a in record.values())
        else:
            records.append((name, "config" if isinstance(record, ConfigRecord) else "metric", dict(record)))
    header = json.dumps({"head": head, "records": records}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join((struct.pack(">I", len(header)), header, *blobs))


def decode(raw: bytes) -> tuple[dict[str, Any], RecordDict]:
    """Return head and content of a message; raises `Malformed`.

    Every array is checked: known element type, and as many bytes as its shape needs.
    """
    if len(raw) < 4:
        raise Malformed("The message is shorter than its 4-byte length field.")
    (size,) = struct.unpack_from(">I", raw)
    if size > min(MAX_HEADER, len(raw) - 4):
        raise Malformed(f"The message announces a header of {size} bytes and holds {len(raw) - 4} bytes.")
    try:
        header = json.loads(raw[4 : 4 + size], parse_constant=_refuse)
        head, records = dict(header["head"]), list(header["records"])
        content, offset = RecordDict(), 4 + size
        for name, kind, payload in records:
            if kind == "array":
                arrays: dict[str, Array] = {}
                for key, dtype, shape, length in payload:
                    if not isinstance(length, int) or not 0 < length <= len(raw) - offset:
                        raise ValueError(f"array {key!r} does not fit into the message")
                    arrays[key] = _array(key, dtype, tuple(shape), raw[offset : offset + length])
                    offset += length
                content[name] = ArrayRecord(arrays)
            else:
                content[name] = _SIMPLE[kind](payload)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"The message cannot be read: {error}") from None
    if offset != len(raw):
        raise Malformed(f"The message holds {len(raw) - offset} bytes that its header does not mention.")
    return head, content


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is not a JSON number")


def _array(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):  # type: ignore[no-untyped-call]
        raise ValueError(f"array {name!r} is not in NumPy's format 1.0")
    # Before anything is allocated: NumPy itself would reserve whatever memory the sender's shape asks for.
    actual_shape, _, actual_dtype = np.lib.format.read_array_header_1_0(stream)  # type: ignore[no-untyped-call]
    if dtype not in DTYPES or str(actual_dtype) != dtype or actual_shape != shape:
        raise ValueError(f"array {name!r} is {actual_dtype}{actual_shape}, announced as {dtype}{shape}")
    if math.prod(shape) * actual_dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"array {name!r} has {len(data) - stream.tell()} bytes for the shape {shape}")
    return Array(dtype=dtype, shape=shape, stype=_STYPE, data=data)
