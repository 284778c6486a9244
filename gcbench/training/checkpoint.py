"""Atomic checkpoints: a checkpoint is whole or absent, and a broken last one falls back to the one before."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gcbench.files import write_atomic

_NAME = re.compile(r"^step-(\d{9})\.pt$")


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_atomic(path, save(tensors, metadata=dict(metadata)))


class Checkpoints:
    """The checkpoints of one run, newest last.

    Args:
        folder: where they lie.
        keep: how many of the newest are kept.
        warn: told when a checkpoint cannot be read.
    """

    def __init__(self, folder: Path, *, keep: int = 2, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in matches if match)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after `step` optimiser steps; older checkpoints beyond `keep` are removed afterwards."""
        buffer = io.BytesIO()  # torch hides a full disk's error when it writes the file itself
        torch.save({**state, "step": step}, buffer)
        write_atomic(self._path(step), buffer.getbuffer())
        for old in self.steps()[: -self.keep]:
            self._path(old).unlink()

    def load_last(self) -> dict[str, Any] | None:
        """The newest readable state, or None. Broken ones are removed and reported."""
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch raises many kinds for a damaged file; every one means "not readable"
                self.warn(f"checkpoint {path} cannot be read ({type(error).__name__}); going back to the one before")
                path.unlink()
                continue
            assert isinstance(state, dict) and state["step"] == step
            return state
        return None

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"
