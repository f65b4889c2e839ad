"""Files of safetensors."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .files import refuse_pointer
from .progress import track
from .refusals import names_in

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
NAMED = {name: dtype for dtype, name in DTYPES.items()}


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """The file, its header read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is broken.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            names_in(file.keys(), path)
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def offsets_of(path: Path) -> dict[str, int]:
    """Where in a readable file the data of each tensor begin."""
    with path.open("rb") as file:
        begin = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(begin))
    entries.pop("__metadata__", None)
    return {name: 8 + begin + entry["data_offsets"][0] for name, entry in entries.items()}


def write_safetensors(
    path: Path,
    headers: Mapping[str, tuple[torch.dtype, Sequence[int]]],
    tensors: Iterable[torch.Tensor],
) -> None:
    """Write tensors one after the other; the library's own writer wants all of them at once.

    The format: the header's length in eight bytes, the header in JSON, the data.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in headers.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        waiting = iter(tensors)
        for dtype, shape in track(
            headers.values(), "Writing weights", lambda one: math.prod(one[1]) * one[0].itemsize
        ):
            tensor = next(waiting)
            assert tensor.dtype == dtype
            assert tuple(tensor.shape) == tuple(shape)
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(data.numpy().data)
