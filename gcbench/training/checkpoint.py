"""Atomic, verified checkpoints: one is whole or absent, and a damaged last one falls back to the one before.

A file's name holds the step and the beginning of the SHA-256 of its content, `step-000000500-0123456789abcdef.pt`,
so every damage is noticed before anything of it is loaded.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from gcbench.errors import RunError
from gcbench.files import remove_leftovers, write_atomic

_NAME = re.compile(r"^step-(\d{9})-([0-9a-f]{16})\.pt$")


def save_weights(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors, atomically."""
    write_atomic(path, weights_bytes(weights, metadata))


def weights_bytes(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What `save_weights` writes; the same for the same tensors, as long as `metadata` has one key at most."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    content: bytes = save(tensors, metadata=dict(metadata))
    return content


@dataclass(frozen=True, order=True)
class _File:
    step: int
    digest: str
    path: Path


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they lie.
        keep: how many of the newest are kept.
        warn: told when a checkpoint is damaged.
    """

    def __init__(self, folder: Path, *, keep: int = 2, warn: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.warn = warn

    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending."""
        return sorted({file.step for file in self._files()})

    def file(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return next(file.path for file in self._files() if file.step == step)

    def save(self, step: int, state: Mapping[str, Any], *, best: int | None = None) -> None:
        """Write the state after `step` optimiser steps; older ones beyond `keep` are removed afterwards.

        Args:
            step: how many steps were done.
            state: what `load_last` gives back: tensors, numbers, texts, lists and dicts of them.
            best: the step of a checkpoint that stays however old it is.

        Raises:
            DiskFullError, OSError: it could not be written; all earlier ones are still there.
        """
        buffer = io.BytesIO()  # torch hides a full disk's error when it writes the file itself
        torch.save({**state, "step": step}, buffer)
        content = buffer.getbuffer()
        path = self.folder / f"step-{step:09d}-{_digest(content)}.pt"
        write_atomic(path, content)
        kept = {*self.steps()[-self.keep :], best}
        for file in self._files():
            if file.step not in kept or (file.step == step and file.path != path):
                file.path.unlink(missing_ok=True)
        remove_leftovers(self.folder)

    def load_last(self, *, remove: bool = True) -> dict[str, Any] | None:
        """The newest undamaged state, or None. Damaged ones are reported, and removed unless they are to stay.

        Raises:
            RunError: an undamaged one is not of this version of the program.
        """
        for file in reversed(self._files()):
            content = file.path.read_bytes()
            if _digest(content) != file.digest:
                self.warn(f"checkpoint {file.path} is damaged; going back to the one before")
                if remove:
                    with suppress(OSError):
                        file.path.unlink()
                continue
            try:
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                assert isinstance(state, dict) and state["step"] == file.step
            except Exception as error:  # torch raises many kinds
                raise RunError(
                    f"Checkpoint {file.path} is undamaged, but cannot be used ({type(error).__name__}).",
                    "Go on with the version of gcbench that wrote it, or remove it to start from the one before.",
                ) from error
            return state
        return None

    def _files(self) -> list[_File]:
        if not self.folder.is_dir():
            return []
        matches = ((_NAME.match(path.name), path) for path in self.folder.iterdir())
        return sorted(_File(int(match.group(1)), match.group(2), path) for match, path in matches if match)


def _digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
