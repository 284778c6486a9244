"""Steps whose loss or gradient is not finite: skipped, counted, and stopped at a limit with the batch kept to look at.

A forward pass also moves batch-norm statistics, which a single NaN spoils for good; so they are put back too.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.training.checkpoint import save_weights

KIND = "not-finite"


class Buffers:
    """A copy of a module's buffers as they were before a step."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = list(module.buffers())
        self._copies = [torch.empty_like(buffer) for buffer in self._buffers]

    def remember(self) -> None:
        """Take the copy."""
        if self._buffers:
            torch._foreach_copy_(self._copies, self._buffers)

    def restore(self) -> None:
        """Put it back."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._copies)


def save_batch(path: Path, batch: Any, origin: Mapping[str, Any]) -> None:
    """Write all tensors of a batch as safetensors, by the names of what holds them; texts and numbers as metadata.

    Args:
        path: the file.
        batch: tensors in dataclasses, sequences and mappings.
        origin: what else to say, such as the step.
    """
    tensors: dict[str, Tensor] = {}
    texts = {"format": "pt", **{name: json.dumps(value) for name, value in origin.items()}}
    for name, value in _leaves(batch, ""):
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            texts[name] = json.dumps(value)
    save_weights(path, tensors, texts)


def scene_names(batch: Any) -> list[str]:
    """The scenes of a batch, where it says which."""
    return [str(value) for name, value in _leaves(batch, "") if ".names." in f".{name}." and isinstance(value, str)]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts: Sequence[tuple[str, Any]] = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(str(number), item) for number, item in enumerate(value)]
    else:
        if isinstance(value, Tensor | str | int | float):
            yield name or "value", value
        return
    for part, item in parts:
        yield from _leaves(item, f"{name}.{part}" if name else part)
