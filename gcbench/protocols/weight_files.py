"""Loading whole models from safetensors: every weight must be there, of the right shape and type, and finite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from gcbench.errors import DataError
from gcbench.models.weights import few

_Model = TypeVar("_Model", bound=nn.Module)


def open_model(build: Callable[[], _Model], file: Path, *, blocks: int, way_out: str) -> _Model:
    """Build a model without a start of its own, and take all of it from a file. On the CPU, in eval mode.

    Args:
        build: makes the model.
        file: its weights.
        blocks: how many residual blocks `build` will make; a file without weights for them is refused before.
        way_out: what to do if they do not fit.

    Raises:
        DataError: the file cannot be read, or is not exactly the weights of this model.
    """
    try:
        tensors = load(file.read_bytes())  # not mapped: whoever writes to the file later does not change the model
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read as safetensors: {error}.", way_out) from error
    if blocks > len(tensors):
        raise DataError(f"{file} has {len(tensors)} tensors, too few for a network of {blocks:,} blocks.", way_out)
    with torch.device("meta"):
        model = build()
    wrong = _mistakes(model.state_dict(), tensors)
    if wrong:
        raise DataError(f"{file} does not fit its model: {few(wrong, '; ')}.", way_out)
    model.load_state_dict(tensors, assign=True)
    assert not any(value.is_meta for value in (*model.parameters(), *model.buffers())), "all of a model is in its file"
    return model.eval()


def _mistakes(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    lines = [f"{name} is missing" for name in expected if name not in found]
    lines += [f"{name} is not of this model" for name in found if name not in expected]
    for name, value in expected.items():
        tensor = found.get(name)
        if tensor is None:
            continue
        if tensor.shape != value.shape or tensor.dtype != value.dtype:
            lines.append(f"{name} is {_described(tensor)}, {_described(value)} is needed")
        elif not bool(torch.isfinite(tensor).all()):
            lines.append(f"{name} has values that are not finite")
    return lines


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
