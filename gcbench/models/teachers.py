"""Frozen 2D teachers X_f: photos to feature maps that the rendered features are compared with (Eq. 16, 19).

Shape legend
    V  images      H, W  pixels      h, w  cells of the teacher's grid      D  channels of the teacher (d*)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models import classical_features as classical

_EDITION = 1  # raise it with every change of the maps: cached maps are known by it
_FINE = 4  # pixels of the fine grid per cell: windows and radii are found on it
_RADII = (1 / 30, 1 / 10, 1 / 4)  # of the photo's height: a window of the largest spans half of it
_WEIGHTS = (1.0, 1.0, 0.5, 0.25)  # gradients, self-similarity, patterns, colour: colour says little about the object


class Teacher(Protocol):
    """A frozen 2D feature extractor; it sees the photo at the photo's own resolution.

    Attributes:
        name: what it is, for recipes, logs and results.
        dim: D.
        key: what its maps depend on, in 16 characters: equal for two teachers that give the same maps.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def key(self) -> str: ...

    def describe(self) -> dict[str, Any]:
        """What it is and how photos are prepared for it, for results."""
        ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) for photos of this size, pixels."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Feature maps [V, h, w, D], without gradient, of photos [V, H, W, 3] in [0, 1]."""
        ...


def load_teacher(
    name: str,
    *,
    model: str | None,
    revision: str | None,
    rows: int,
    precision: Literal["no", "bf16", "fp16"],
    device: torch.device | str,
) -> Teacher:
    """The teacher of a recipe, ready to use.

    Args:
        name: `classical`, or a network: `radio`, `dinov2` or `clip`.
        model: of a network: an id on the Hugging Face Hub, or a local folder. None for `classical`.
        revision: of a model on the Hub: a commit, tag or branch. None for a folder and for `classical`.
        rows: h, rows of cells or patches over the photo's height.
        precision: of a network's forward pass; `classical` always computes in float32.
        device: where a network runs; `classical` runs where the photos are.

    Raises:
        InputError: an option that does not fit, a model that does not exist or is not what the name says.
        DataError: the Hub cannot be reached and the model is not on disk, or its files are broken.
        MissingExtraError: a network, and transformers is not installed.
    """
    if name == "classical":
        if model is not None or revision is not None:
            raise InputError("The classical teacher has no model.", "Set teacher.model=null and teacher.revision=null.")
        return ClassicalTeacher(rows)
    if name not in ("radio", "dinov2", "clip"):
        raise InputError(f"teacher.name is '{name}'.", "Allowed are radio, dinov2, clip and classical.")
    if model is None:
        raise InputError(f"The teacher '{name}' needs a model.", "Set teacher.model to a Hub id or a local folder.")
    from gcbench.models.network_teachers import load_network_teacher

    return load_network_teacher(name, model, revision, rows=rows, precision=precision, device=device)


def description_key(description: Mapping[str, Any]) -> str:
    """16 characters that differ where a description (`Teacher.describe`) does."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


class ClassicalTeacher:
    """Dense classical 2D descriptors (`classical_features.py`): the teacher that needs no weights and no network.

    It stands in for a foundation model where there is none, and is named for what it is. Each channel is centred and
    each group of channels scaled over the photo, so that a cosine compares what is particular to a place in it. A photo
    has one map, whatever else is in the batch.

    Args:
        rows: h, cells over the photo's height; w follows from the photo's shape, with square cells.

    Raises:
        InputError: fewer than two rows.
    """

    name = "classical"

    def __init__(self, rows: int = 15) -> None:
        if rows < 2:
            raise InputError(f"The classical teacher cannot work with {rows} rows of cells.", "Give at least 2.")
        self.rows = rows
        probe = torch.zeros(1, 3, _FINE * rows, _FINE * rows)
        self.dim = sum(group.shape[1] for group in self._groups(probe))
        self.key = description_key(self.describe())

    def describe(self) -> dict[str, Any]:
        """What it is, for results."""
        return {"name": self.name, "edition": _EDITION, "rows": self.rows}

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) for photos of this size.

        Raises:
            InputError: the photo has fewer rows of pixels than the grid has of cells.
        """
        if height < self.rows:
            raise InputError(
                f"A photo of {width} x {height} pixels is too small for {self.rows} rows of cells.",
                "Use larger photos or fewer rows.",
            )
        return self.rows, max(1, round(self.rows * width / height))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Feature maps [V, h, w, D] of photos [V, H, W, 3] in [0, 1].

        Raises:
            InputError: not such images.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"The teacher needs images of shape [V, H, W, 3], not {list(images.shape)}.")
        groups = self._groups(images.permute(0, 3, 1, 2))
        parts = [weight * _standardised(group) for weight, group in zip(_WEIGHTS, groups, strict=True)]
        return torch.cat(parts, dim=1).permute(0, 2, 3, 1)

    def _groups(self, photos: Tensor) -> tuple[Tensor, ...]:
        """The groups of descriptors [V, C, h, w] of photos [V, 3, H, W], in the order of _WEIGHTS."""
        height, width = photos.shape[2:]
        grid = self.grid(height, width)
        fine = min(_FINE * grid[0], height), min(_FINE * grid[1], width)
        near, middle, far = (max(1, round(fine[0] * share)) for share in _RADII)
        return (
            classical.oriented_gradients(photos, fine, grid, (near, middle, far)),
            classical.self_similarity(photos, fine, grid, (2 * near, 2 * middle, 2 * far)),
            classical.local_binary_patterns(photos, fine, grid, 2 * middle + 1),
            classical.colour_statistics(photos, fine, grid, (2 * near + 1, 2 * middle + 1)),
        )


def _standardised(group: Tensor) -> Tensor:
    """The group with each channel's mean over the photo taken off, and a mean square length of 1 over the photo."""
    group = group - group.mean(dim=(2, 3), keepdim=True)
    size = group.square().sum(1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    return group / (size + 1e-6).sqrt()
