"""The header of a safetensors file: bytes to tensors and back, every rule of the format checked.

    8 bytes N, little-endian | N bytes of JSON, padded with spaces | the data, without a gap

    {"__metadata__": {text: text}, NAME: {"dtype": "F32", "shape": [m, n], "data_offsets": [b, e]}}

A header that `parse_header` lets pass describes tensors that lie inside the file, touch each
other without gap or overlap, and fit their type and shape: nothing after it needs checking.

Shapes:  as in the file, row-major; () is a scalar, an axis of 0 an empty tensor
Units:   `start`, `stop` are bytes from the beginning of the file; `data_offsets` from the data's
Errors:  CheckpointError, one line, for every way in which a header can be wrong
Limits:  at most 100 000 000 bytes of header (as the library), at most 64 axes (as NumPy)
Source:  safetensors 0.8.0, README section Format; safetensors/src/tensor.rs, functions
         SafeTensors::read_metadata, Metadata::validate, prepare
"""

import json
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .dtypes import ALIGNMENT_RANK, DTYPES
from .errors import refusal, shown
from .strict_json import is_text, parse_object

LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FIELDS = ("data_offsets", "dtype", "shape")
_MAX_AXES = 64
_LIMIT = 2**63


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without where: its name, its safetensors dtype name, its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self):
        if not isinstance(self.name, str) or self.name == _METADATA or not is_text(self.name):
            raise ValueError(
                f"TensorSpec: name must be text other than {_METADATA!r}, got {shown(self.name)}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(
                f"TensorSpec: dtype of {shown(self.name)} must be one of {', '.join(DTYPES)}, "
                f"got {shown(self.dtype)}"
            )
        object.__setattr__(self, "shape", tuple(operator.index(n) for n in self.shape))
        if min(self.shape, default=0) < 0 or self.nbits % 8:
            raise ValueError(
                f"TensorSpec: shape of {shown(self.name)} must be non-negative and fill whole "
                f"bytes of {self.dtype}, got {shown(self.shape)}"
            )

    @property
    def nbits(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].bits

    @property
    def nbytes(self) -> int:
        return self.nbits // 8


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file: name, safetensors dtype name, shape, and its bytes [start, stop)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


def build_header(specs: Iterable[TensorSpec], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the header the safetensors library writes for these tensors: same order, same bytes.

    Tensors are ordered by decreasing alignment of their type, then by name. `metadata` None leaves
    `__metadata__` out; the library itself shuffles two or more entries, here their order stays.
    """
    fields: dict[str, object] = {} if metadata is None else {_METADATA: dict(metadata)}
    begin = 0
    for spec in sorted(specs, key=lambda spec: (-ALIGNMENT_RANK[spec.dtype], spec.name)):
        if spec.name in fields:
            raise ValueError(f"build_header: names must differ, got {shown(spec.name)} twice")
        offsets = [begin, begin + spec.nbytes]
        fields[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": offsets,
        }
        begin = offsets[1]
    raw = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return raw + b" " * (-len(raw) % LENGTH_BYTES)


def parse_header(
    raw: bytes, data_size: int, path: object
) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Return metadata and tensors, in the header's order, of a file with `data_size` data bytes."""
    if not raw.startswith(b"{"):
        raise refusal(path, f"the header must begin with '{{', got {shown(raw[:16])}")
    fields = parse_object(raw, path, "the header")
    metadata = _parse_metadata(fields.pop(_METADATA, {}), path)
    base = LENGTH_BYTES + len(raw)
    tensors = {name: _parse_tensor(name, value, base, path) for name, value in fields.items()}
    _check_cover(tensors.values(), base, data_size, path)
    return metadata, tensors


def _parse_metadata(value, path):
    if not isinstance(value, dict):
        raise refusal(path, f"{_METADATA} must be an object of texts, got {shown(value)}")
    for key, text in value.items():
        if not isinstance(text, str) or not is_text(text):
            raise refusal(path, f"{_METADATA}: {shown(key)} must be text, got {shown(text)}")
    return value


def _parse_tensor(name, fields, base, path):
    where = f"tensor {shown(name)}"
    if not isinstance(fields, dict) or sorted(fields) != list(_FIELDS):
        got = sorted(fields) if isinstance(fields, dict) else fields
        need = "an object with exactly dtype, shape and data_offsets"
        raise refusal(path, f"{where} must be {need}, got {shown(got)}")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refusal(
            path, f"{where}: dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}"
        )
    shape = _naturals(fields["shape"], f"{where}: shape", path)
    offsets = _naturals(fields["data_offsets"], f"{where}: data_offsets", path)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        got = shown(list(offsets))
        raise refusal(path, f"{where}: data_offsets must be [begin, end], begin <= end, got {got}")
    _check_size(dtype, shape, offsets, where, path)
    return TensorInfo(name, dtype, shape, base + offsets[0], base + offsets[1])


def _naturals(value, what, path):
    # `type is int`, because True is an instance of int.
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < _LIMIT for n in value):
        raise refusal(path, f"{what} must be a list of integers 0 <= n < 2^63, got {shown(value)}")
    return tuple(value)


def _check_size(dtype, shape, offsets, where, path):
    bits = DTYPES[dtype].bits
    # The axes of size 0 are left out: NumPy must be able to multiply the others.
    largest = math.prod(n for n in shape if n) * bits if len(shape) <= _MAX_AXES else 8 * _LIMIT
    if largest >= 8 * _LIMIT:
        need = f"at most {_MAX_AXES} axes and below 2^63 bytes"
        raise refusal(path, f"{where}: shape must have {need} (overflow), got {shown(shape)}")
    size = math.prod(shape) * bits
    if size % 8:
        raise refusal(path, f"{where}: {dtype} must fill whole bytes, got shape {shown(shape)}")
    given = offsets[1] - offsets[0]
    if size // 8 != given:
        need = f"{size // 8} bytes, as dtype {dtype} and shape {shown(list(shape))} need"
        raise refusal(path, f"{where}: data_offsets must span {need}, got {given}")


def _check_cover(infos, base, data_size, path):
    end, last = base, ""
    for info in sorted(infos, key=lambda info: (info.start, info.stop)):
        where = f"tensor {shown(info.name)}"
        if info.stop > base + data_size:
            need = f"end within the file's {data_size} bytes of data"
            got = f"{info.stop - base}: the file is truncated or its header wrong"
            raise refusal(path, f"{where}: data_offsets must {need} (out of range), got {got}")
        if info.start < end:
            overlap = (
                f"overlaps {shown(last)}: must begin at or after byte {end - base} of the data"
            )
            raise refusal(path, f"{where} {overlap}, got {info.start - base}")
        if info.start > end:
            hole = f"leaves a hole: must begin at byte {end - base} of the data"
            raise refusal(path, f"{where} {hole}, got {info.start - base}")
        end, last = info.stop, info.name
    if end != base + data_size:
        need = f"end with the last tensor, after {end - base} bytes of data"
        raise refusal(path, f"the file must {need}, got {data_size} (a hole at the end)")
