"""The folder of an exported or converted encoder, checked before any job starts. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import ValidationError

from gcbench.errors import InputError
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import Encoder, PretrainRecipe

WEIGHTS, CONFIG = "model.safetensors", "config.json"
DEFAULT_RECIPE = "pretrain/gaussiancross"  # whose voxels an encoder takes that does not say which it was trained on

ModelKind: TypeAlias = Literal["encoder", "segmenter", "instance-segmenter", "pretrainer"]


@dataclass(frozen=True)
class EncoderFolder:
    """An exported or converted encoder.

    Attributes:
        weights: path of its weights.
        sizes: what it is like.
        grid_size: voxel edge that it was pre-trained with, metres, if it says so.
    """

    weights: Path
    sizes: Encoder
    grid_size: float | None


def given_encoder(folder: Path, sizes: Encoder) -> Path:
    """Path of the weights in an encoder's folder, which must be of these sizes.

    Raises:
        InputError: as `open_encoder`, or the encoder is of other sizes.
    """
    found = open_encoder(folder)
    if found.sizes != sizes:
        differing = ", ".join(
            f"{key} {getattr(found.sizes, key)} instead of {getattr(sizes, key)}"
            for key in Encoder.model_fields
            if getattr(found.sizes, key) != getattr(sizes, key)
        )
        raise InputError(
            f"The encoder in {folder} is of other sizes than the recipe's: {differing}.",
            "Choose the recipe or preset that it was pre-trained with.",
        )
    return found.weights


def open_encoder(folder: Path) -> EncoderFolder:
    """An encoder's folder: `RUN/encoder` of a pre-training, or what `gcbench convert` wrote.

    Args:
        folder: with `model.safetensors` and `config.json`; the folder of a run will do.

    Raises:
        InputError: a file is missing or broken.
    """
    folder = folder / "encoder" if (folder / "encoder" / WEIGHTS).is_file() else folder
    weights, config = folder / WEIGHTS, folder / CONFIG
    if not weights.is_file() or not config.is_file():
        raise InputError(
            f"{folder} is no exported encoder: it lacks {WEIGHTS} or {CONFIG}.",
            "Give the folder of a pre-training run, or make one: gcbench convert FILE OUT",
        )
    try:
        content = json.loads(config.read_bytes())
        known = {key: content[key] for key in Encoder.model_fields if key in content}
        found = Encoder.model_validate_json(json.dumps(known))
    except (OSError, ValueError, TypeError, ValidationError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{config} does not tell the sizes of an encoder ({reason}).", "Export it again.") from error
    grid_size = (content.get("pretraining") or {}).get("grid_size")
    if not (grid_size is None or (isinstance(grid_size, float) and grid_size > 0)):
        raise InputError(f"{config}: 'grid_size' is {grid_size!r}, not a length in metres.", "Export it again.")
    return EncoderFolder(weights, found, grid_size)


def default_grid_size() -> float:
    """The voxel edge of an encoder that does not say its own, metres."""
    recipe = load_recipe(DEFAULT_RECIPE).recipe
    assert isinstance(recipe, PretrainRecipe)
    return recipe.data.grid_size
