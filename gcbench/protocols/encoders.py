"""Building encoders from recipes, and reading and writing the exported encoder of a pre-training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.encoder_files import EncoderFolder
from gcbench.protocols.weight_files import open_model
from gcbench.recipe.schema import Encoder
from gcbench.training.checkpoint import save_weights


def build_encoder(sizes: Encoder) -> SparseUNet:
    """A randomly initialised encoder."""
    return SparseUNet(sizes.in_channels, sizes.base_channels, sizes.channels, sizes.layers)


def export_encoder(encoder: SparseUNet, sizes: Encoder, folder: Path, origin: Mapping[str, Any] | None = None) -> Path:
    """Write `config.json` and `model.safetensors` (official parameter names); returns the weights' path.

    Args:
        encoder: what was trained.
        sizes: its sizes, for the config.
        folder: where to.
        origin: where it comes from: recipe, data, seed and so on, for the config.
    """
    config = {"model_type": "gcbench-sparse-unet", **sizes.model_dump(mode="json"), "pretraining": dict(origin or {})}
    text = json.dumps(config, indent=2) + "\n"
    write_atomic(folder / "config.json", text)
    save_weights(folder / "model.safetensors", encoder.state_dict(), {"format": "pt"})
    return folder / "model.safetensors"


def read_encoder(folder: EncoderFolder) -> SparseUNet:
    """The encoder of a folder, in eval mode on the CPU.

    Raises:
        DataError: its weights cannot be read, or do not fit its sizes.
    """
    way_out = "Export or download it again."
    blocks = sum(folder.sizes.layers)
    return open_model(lambda: build_encoder(folder.sizes), folder.weights, blocks=blocks, way_out=way_out)


def load_encoder(encoder: SparseUNet, weights: Path) -> None:
    """Load an exported encoder; every weight must be there and fit.

    Raises:
        DataError: the file is missing or broken, or belongs to an encoder of another size.
    """
    try:
        encoder.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{weights} cannot be read: {error}.", "Run the pre-training again.") from error
    except RuntimeError as error:
        raise DataError(
            f"{weights} does not fit this encoder: {error}", "Pre-train and probe with the same encoder sizes."
        ) from error
