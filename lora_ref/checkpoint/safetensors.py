"""The safetensors container: read one memory-mapped tensor at a time, write in a stream.

A tensor is mapped alone and unmapped with its array, so a checkpoint of any size costs the tensors
that are alive, not the file. Nothing in a file is ever executed; a pickle is refused unread.

Errors:  CheckpointError, one line, for every file that is not a valid safetensors file;
         ValueError where the caller's own blocks do not fit what was announced
Limits:  a file that is shortened while a tensor of it is mapped kills the process (SIGBUS);
         a BOOL tensor is not searched for bytes other than 0 and 1;
         each live mapped tensor holds one file descriptor
Source:  safetensors 0.8.0, README section Format; safetensors/src/tensor.rs
"""

import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .atomic import new_file
from .dtypes import DTYPES
from .errors import CheckpointError, refusal, shown
from .header import LENGTH_BYTES, TensorInfo, TensorSpec, build_header, parse_header
from .strict_json import MAX_HEADER

Blocks = np.ndarray | Iterable[np.ndarray] | Callable[[], np.ndarray | Iterable[np.ndarray]]

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class SafetensorsFile:
    """One valid safetensors file, opened: what is in it, and `tensor` to map what is asked for.

    `tensors` is in the order of the header, `raw_header` is the header's JSON with its padding
    (to write the same file again), `stamp` tells whether the file is still the one that was opened.
    """

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    raw_header: bytes
    stamp: tuple[int, int, int, int]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "SafetensorsFile":
        """Read and check the header of `path`; no tensor is read."""
        path = Path(path)
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise pickle_refusal(path)
        with _regular_file(path) as (number, stamp):
            size = stamp[2]
            raw = _read_header(number, size, path)
        metadata, tensors = parse_header(raw, size - LENGTH_BYTES - len(raw), path)
        return cls(path, metadata, tensors, raw, stamp)

    def tensor(self, name: str) -> np.ndarray:
        """Return the tensor, read-only and mapped; unmapped when the array is gone."""
        info = self._info(name)
        dtype = DTYPES[info.dtype].numpy
        if dtype is None:
            need = "a type that NumPy can hold"
            raise refusal(self.path, f"tensor {shown(name)} must have {need}, got {info.dtype}")
        return self._mapped(info, dtype).reshape(info.shape)

    def raw(self, name: str) -> np.ndarray:
        """Return the tensor's bytes, of any type, as a flat read-only mapped uint8 array."""
        return self._mapped(self._info(name), _BYTE)

    def blocks(self, name: str) -> np.ndarray:
        """Return what `write_safetensors` takes to copy the tensor: packed bytes below 8 bits."""
        packed = DTYPES[self._info(name).dtype].numpy is None
        return self.raw(name) if packed else self.tensor(name)

    def _info(self, name):
        if name not in self.tensors:
            has = f"has {len(self.tensors)} tensors: {shown(list(self.tensors))}"
            raise refusal(self.path, f"no tensor {shown(name)}; {has}")
        return self.tensors[name]

    def _mapped(self, info, dtype):
        with _regular_file(self.path) as (number, stamp):
            if stamp != self.stamp:
                raise refusal(self.path, "must not change while it is in use, got another content")
            array = _map(number, info, dtype, self.path)
        if not array.flags.aligned:
            # A header of odd length puts elements across their natural boundary.
            array = array.copy()
        array.setflags(write=False)
        return array


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Iterable[tuple[TensorSpec, Blocks]],
    metadata: Mapping[str, str] | None = None,
    *,
    header: bytes | None = None,
    overwrite: bool = False,
) -> None:
    """Write a safetensors file, one block at a time, under its name only once it is whole.

    Each tensor is a spec and its data: an array, an iterable of row-blocks (arrays that stacked
    along the first axis are the tensor), or a function that returns either and is called when the
    tensor's turn comes. Turns are in the order of the file, which is the library's own (see
    `build_header`), not the order given. A tensor below 8 bits is given as packed uint8, flat.

    `header` is a header to write verbatim, such as `SafetensorsFile.raw_header`: together with that
    file's tensors it makes the same file, byte for byte. It must announce exactly `tensors`.

    Errors: ValueError if blocks or `header` do not fit the specs; CheckpointError if `path` exists
            (without `overwrite`) or cannot be written. Either way nothing is left behind.
    """
    path = Path(path)
    given = list(tensors)
    data = {spec.name: blocks for spec, blocks in given}
    specs = [spec for spec, _ in given]
    raw = build_header(specs, metadata) if header is None else header
    if len(raw) > MAX_HEADER:
        raise refusal(path, f"the header must be at most {MAX_HEADER} bytes, got {len(raw)}")
    _, infos = parse_header(raw, sum(spec.nbytes for spec in specs), path)
    by_name = {spec.name: spec for spec in specs}
    if by_name != {name: info.spec for name, info in infos.items()} or (metadata and header):
        raise ValueError(
            "write_safetensors: header must announce the same tensors as the argument tensors, "
            f"and exclude metadata, got {shown(raw)} and {shown(specs)}"
        )
    with new_file(path, overwrite=overwrite) as file:
        file.write(len(raw).to_bytes(LENGTH_BYTES, "little"))
        file.write(raw)
        for info in sorted(infos.values(), key=lambda info: (info.start, info.stop)):
            _write_tensor(file, by_name[info.name], data[info.name])


def pickle_refusal(path: Path) -> CheckpointError:
    """Return the refusal of a pickle file."""
    return refusal(
        path,
        "is a pickle file, which can run code when loaded; convert it to safetensors where you "
        "trust its maker (torch.load with weights_only=True, then safetensors.torch.save_file); "
        "refused",
    )


@contextmanager
def _regular_file(path: Path) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    # O_NONBLOCK: opening a FIFO must not wait for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except FileNotFoundError:
        raise refusal(path, "does not exist") from None
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise refusal(path, f"cannot be read: {problem}") from None
    try:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            got = "a directory" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
            raise refusal(path, f"must be a regular safetensors file, got {got}")
        yield number, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    finally:
        os.close(number)


def _read_header(number, size, path):
    start = _read(number, LENGTH_BYTES + 1)
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    # Zip (torch.save) or a pickle's first bytes; a valid file may begin alike, but not go on so.
    pickled = start.startswith((b"PK", *(bytes([0x80, protocol]) for protocol in range(2, 6))))
    if pickled and start[LENGTH_BYTES:] != b"{":
        raise pickle_refusal(path)
    if len(start) < LENGTH_BYTES:
        need = f"at least {LENGTH_BYTES} bytes: it is no safetensors file or truncated"
        raise refusal(path, f"must have {need}, got {size}")
    limit = min(MAX_HEADER, size - LENGTH_BYTES)
    if length > limit:
        need = f"at most {limit} bytes (the file, and {MAX_HEADER} at most)"
        what = "it is no safetensors file or truncated"
        raise refusal(path, f"the header must have {need}, got length {length}: {what}")
    raw = start[LENGTH_BYTES:][:length] + _read(number, length - 1)
    if len(raw) != length:
        raise refusal(path, "must not change while it is in use, got a shorter file")
    return raw


def _read(number, size):
    parts = []
    while size > 0 and (part := os.read(number, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _map(number, info, dtype, path):
    if not info.nbytes:
        return np.empty(0, dtype)
    page = info.start - info.start % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(number, info.stop - page, offset=page, access=mmap.ACCESS_READ)
    except OSError as error:
        raise refusal(path, f"cannot be mapped: {error.strerror}") from None
    return np.frombuffer(
        pages, dtype, count=info.nbytes // dtype.itemsize, offset=info.start - page
    )


def _write_tensor(file, spec, blocks):
    dtype = DTYPES[spec.dtype].numpy
    shape = spec.shape
    if dtype is None:
        dtype, shape = _BYTE, (spec.nbytes,)
    blocks = blocks() if callable(blocks) else blocks
    # NumPy turns 0-d results into scalars: np.generic is a whole tensor too.
    rows, total = 0, (shape or (1,))[0]
    for given in (blocks,) if isinstance(blocks, np.ndarray | np.generic) else blocks:
        block = np.asarray(given)
        rows += (block.shape or (1,))[0]
        fits = block.dtype == dtype and block.ndim == len(shape) and block.shape[1:] == shape[1:]
        if not fits or rows > total:
            raise ValueError(
                f"write_safetensors: blocks of {shown(spec.name)} must be {dtype} of shape "
                f"{shape} in all, or rows of it, got {block.dtype} {block.shape} to row {rows}"
            )
        # Contiguous: a transposed or strided view must be written in its own logical order.
        file.write(np.ascontiguousarray(block).reshape(-1).view(_BYTE))
    if rows != total and spec.nbytes:
        raise ValueError(
            f"write_safetensors: blocks of {shown(spec.name)} must stack to shape {shape}, "
            f"got {rows} rows"
        )
