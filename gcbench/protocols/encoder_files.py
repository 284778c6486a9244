"""The folder of an exported or converted encoder, checked before any job starts. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from gcbench.errors import InputError
from gcbench.recipe.schema import Encoder

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def given_encoder(folder: Path, sizes: Encoder) -> Path:
    """Path of the weights in an encoder's folder: `RUN/encoder` of a pre-training, or what `gcbench convert` wrote.

    Args:
        folder: with `model.safetensors` and `config.json`; the folder of a run will do.
        sizes: what the encoder must have.

    Raises:
        InputError: a file is missing or broken, or the encoder is of other sizes.
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
    if found != sizes:
        differing = ", ".join(
            f"{key} {getattr(found, key)} instead of {getattr(sizes, key)}"
            for key in Encoder.model_fields
            if getattr(found, key) != getattr(sizes, key)
        )
        raise InputError(
            f"The encoder in {folder} is of other sizes than the recipe's: {differing}.",
            "Choose the recipe or preset that it was pre-trained with.",
        )
    return weights
