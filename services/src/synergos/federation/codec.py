"""Flower records as bytes and back, without pickle and without trust in the sender.

A message is a 4-byte big-endian length, a JSON header of that length, and the arrays' elements (C order, little-endian)
in the header's order::

    [["arrays", "array", [["nnl_0_linear.weight", "float32", [1, 10]], ...]],
     ["config", "config", {...}], ["metrics", "metric", {...}]]

Headers of one run hardly differ. Between two who both hold an earlier one, a message may say only what is different:
the length field then has its highest bit set, and the header is in zlib's format, the earlier one its dictionary. (zlib
looks back no further than 32 KB: the header of a larger model is compressed, but not to almost nothing.)
"""

from __future__ import annotations

import functools
import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from synergos.errors import SynergosError

MAX_MESSAGE = 512 * 1024 * 1024
MAX_HEADER = 4 * 1024 * 1024
DTYPES = frozenset({"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"})
MAX_DIMENSIONS = 16
_STYPE = "numpy.ndarray"
_SIMPLE = {"config": ConfigRecord, "metric": MetricRecord}
_SHORT = 1 << 31
# Headers end where elements may start without being copied before NumPy reads them.
_ALIGNMENT = 8
# What replies say and messages do not.
_WORDS = b'{"num-examples":,"train-loss":0.,"seconds":0.00,"evaluate-examples":,"evaluate-loss":0.}["metrics","metric",'


class Malformed(SynergosError):
    """Bytes that are no message."""

    status = 400


class Unheard(Malformed):
    """A message that refers to a header which is not known here."""

    status = 428


class _Plain(Array):
    """A NumPy array in C order, whose elements are read where they lie: nothing is parsed, or copied for `numpy()`."""

    def __init__(self, dtype: str, shape: tuple[int, ...], elements: memoryview) -> None:
        # Flower's own way to set four attributes takes longer than all the rest of decoding.
        self.__dict__.update(dtype=dtype, shape=shape, stype=_STYPE, elements=elements)

    def numpy(self) -> NDArray[Any]:
        return np.frombuffer(self.__dict__["elements"], dtype=self.dtype).reshape(self.shape)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        return b"".join((_layout(self.dtype, self.shape)[0], self.__dict__["elements"]))


def to_array(values: NDArray[Any], *, copy: bool = True) -> Array:
    """Return `values` as Flower's array; its `numpy()` is a read-only view.

    Args:
        copy: False where `values` will not change for as long as the array is used.
    """
    if copy or not values.flags.c_contiguous:
        values = values.copy()
    dtype = _name(values.dtype)
    _layout(dtype, values.shape)
    return _Plain(dtype, values.shape, values.reshape(-1).view(np.uint8).data.toreadonly())


def plain(array: Array) -> Array:
    """Return Flower's array with a `numpy()` that is a read-only view."""
    return array if isinstance(array, _Plain) else _Plain(array.dtype, tuple(array.shape), _elements(array))


def encode(content: RecordDict, known: bytes = b"") -> bytes:
    """Return the message with this `content`; NaN and infinity in metrics and settings are refused (ValueError)."""
    return b"".join(pieces(content, known))


def pieces(content: RecordDict, known: bytes = b"") -> list[bytes | memoryview]:
    """Return the message in pieces, of which those with the arrays' elements are views.

    Args:
        known: an earlier header that the reader holds, too.
    """
    header, elements = split(content)
    return [preamble(header, known), *elements]


def preamble(header: bytes, known: bytes = b"") -> bytes:
    """Return what comes before the elements: length and header, or what differs from a `known` one."""
    if not known:
        return struct.pack(">I", len(header)) + header
    # Small tables: to set up the usual ones takes longer than to compress so little.
    dictionary = _WORDS + known
    window = min(15, max(9, (len(dictionary) + len(header)).bit_length()))
    packer = zlib.compressobj(level=9, wbits=window, memLevel=1, zdict=dictionary)
    packed = packer.compress(header) + packer.flush()
    return struct.pack(">I", _SHORT | len(packed)) + packed


def split(content: RecordDict) -> tuple[bytes, Sequence[memoryview]]:
    """Return the header of the message with this `content`, and the elements of its arrays as views."""
    records: list[tuple[str, str, Any]] = []
    elements: list[memoryview] = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            records.append((name, "array", [(key, array.dtype, array.shape) for key, array in record.items()]))
            elements.extend(_elements(array) for array in record.values())
        else:
            records.append((name, "config" if isinstance(record, ConfigRecord) else "metric", dict(record)))
    header = json.dumps(records, allow_nan=False, separators=(",", ":")).encode()
    return header + b" " * (-(4 + len(header)) % _ALIGNMENT), elements


def header_of(raw: bytes | bytearray) -> bytes | None:
    """Return the header of a message that could be decoded; None if it says only what differs from another."""
    (size,) = struct.unpack_from(">I", raw)
    return None if size & _SHORT else bytes(raw[4 : 4 + size])


def decode(raw: bytes | bytearray, known: bytes = b"") -> RecordDict:
    """Return the content of a message, whose arrays are views of `raw`.

    Args:
        known: the header that a short message may refer to.

    Raises:
        Malformed: it is no message.
        Unheard: it refers to another header.
    """
    if len(raw) < 4:
        raise Malformed("The message is shorter than its 4-byte length field.")
    (size,) = struct.unpack_from(">I", raw)
    short, size = size & _SHORT, size & ~_SHORT
    if size > min(MAX_HEADER, len(raw) - 4):
        raise Malformed(f"The message announces a header of {size} bytes and holds {len(raw) - 4} bytes.")
    header, rest = raw[4 : 4 + size], memoryview(raw).toreadonly()[4 + size :]
    if short:
        header = _unpack(header, _WORDS + known)
    try:
        records = json.loads(header, parse_constant=_refuse)
        if not isinstance(records, list):
            raise ValueError("the header is no list of records")
        content = RecordDict()
        for name, kind, payload in records:
            if kind == "array":
                record = ArrayRecord()
                for key, dtype, dimensions in payload:
                    shape = _shape(dimensions)
                    _, length = _layout(dtype, shape)
                    if length > len(rest):
                        raise ValueError(f"array {key!r} needs {length} bytes, {len(rest)} are left")
                    record[key] = _Plain(dtype, shape, rest[:length])
                    rest = rest[length:]
                content[name] = record
            else:
                content[name] = _SIMPLE[kind](payload)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"The message cannot be read: {error}") from None
    if rest:
        raise Malformed(f"The message holds {len(rest)} bytes that its header does not mention.")
    return content


def _unpack(packed: bytes | bytearray, known: bytes) -> bytes:
    # zlib names its dictionary in bytes 2 to 5.
    if len(packed) < 6:
        raise Malformed("The message has a header that is cut off.")
    if packed[2:6] != struct.pack(">I", zlib.adler32(known)):
        raise Unheard("The message refers to a header that is not known here: send it in full.")
    unpacker = zlib.decompressobj(zdict=known)
    try:
        header = unpacker.decompress(packed, MAX_HEADER)
    except zlib.error as error:
        raise Malformed(f"The message cannot be read: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise Malformed("The message has a header that is too long, or cut off.")
    return header


def _shape(shape: list[int]) -> tuple[int, ...]:
    # isinstance would let true and false pass as numbers.
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shape} is not a shape")
    return tuple(shape)


def _elements(array: Array) -> memoryview:
    if isinstance(array, _Plain):
        elements: memoryview = array.__dict__["elements"]
        return elements
    prefix, length = _layout(array.dtype, tuple(array.shape))
    if not array.data.startswith(prefix) or len(array.data) != len(prefix) + length:
        raise ValueError(f"not a NumPy array {array.dtype}{array.shape} in C order")
    return memoryview(array.data)[len(prefix) :]


_name = functools.lru_cache(maxsize=64)(str)


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
