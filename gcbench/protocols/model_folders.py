"""A model as a folder: `config.json`, which says what it is, and `model.safetensors`. The form of the Hub.

`model_type` of the config      the model                       made by
    gcbench-sparse-unet         `SparseUNet`, the encoder       a pre-training run (`RUN/encoder`), `gcbench convert`
    gcbench-segmentation        `Segmenter` or `PointGroup`     `save_model` of a run's trained model
    gcbench-pretrainer          `Pretrainer`                    `save_model` of a pre-training run
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from gcbench.errors import DataError, InputError
from gcbench.files import write_atomic
from gcbench.models.pointgroup import PointGroup
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.segmentation import Segmenter
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.encoder_files import CONFIG, WEIGHTS, ModelKind, open_encoder
from gcbench.protocols.encoders import build_encoder, export_encoder, read_encoder
from gcbench.protocols.jobs import JobRecipe
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.trained_models import MODEL_TYPE as SEGMENTATION
from gcbench.protocols.trained_models import ModelConfig, load_model, model_file, save_model
from gcbench.protocols.weight_files import open_model
from gcbench.recipe.schema import Encoder, PretrainRecipe
from gcbench.training.checkpoint import save_weights

ENCODER, PRETRAINER = "gcbench-sparse-unet", "gcbench-pretrainer"
MODEL_TYPES = (ENCODER, SEGMENTATION, PRETRAINER)


class PretrainerConfig(BaseModel):
    """`config.json` of a pre-trainer.

    Attributes:
        recipe: what it was trained with; its sizes are those of the model.
        teacher_channels: of the projection head; None without one.
        pretraining: where it comes from, as the encoder's config has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: Literal["gcbench-pretrainer"] = "gcbench-pretrainer"
    recipe: JobRecipe
    teacher_channels: int | None
    pretraining: dict[str, Any] = {}


@dataclass(frozen=True)
class OpenedModel:
    """A model from files, on the CPU, in eval mode.

    Attributes:
        module: the network.
        config: `config.json`.
        grid_size: voxel edge it was trained with, metres; None if it does not say.
        weights: the file.
        label_set: of its classes, if it has some.
    """

    module: SparseUNet | Segmenter | PointGroup | Pretrainer
    config: Mapping[str, Any]
    grid_size: float | None
    weights: Path
    label_set: str | None = None

    @property
    def kind(self) -> ModelKind:
        """What it is."""
        if isinstance(self.module, SparseUNet):
            return "encoder"
        if isinstance(self.module, Pretrainer):
            return "pretrainer"
        return "instance-segmenter" if isinstance(self.module, PointGroup) else "segmenter"

    @property
    def encoder(self) -> SparseUNet:
        """The network that gives features."""
        found: nn.Module = self.module if isinstance(self.module, SparseUNet) else self.module.encoder
        assert isinstance(found, SparseUNet)
        return found


def open_model_folder(path: Path) -> OpenedModel:
    """Load a model from its folder, from a run's folder, or from the file of a run's trained model.

    Raises:
        InputError: it is none, or of another architecture.
        DataError: a file is missing, broken, or does not fit the others.
    """
    if path.is_file() or (path / "models").is_dir():
        return _trained(model_file(path))
    if (path / "encoder" / WEIGHTS).is_file():
        path = path / "encoder"
    config = read_model_config(path)
    if not (path / WEIGHTS).is_file():
        raise DataError(f"{path} has no {WEIGHTS}.", "Export or download the model again.")
    if config["model_type"] == ENCODER:
        folder = open_encoder(path)
        return OpenedModel(read_encoder(folder), config, folder.grid_size, folder.weights)
    if config["model_type"] == PRETRAINER:
        return _pretrainer(path, config)
    opened = _trained(path / WEIGHTS)
    if opened.config != config:
        raise DataError(f"{path / CONFIG} is not that of {WEIGHTS}.", "Export or download the model again.")
    return opened


def read_model_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a gcbench model.

    Raises:
        InputError: there is none, or it is of another architecture, or wants code of its own to be run.
        DataError: it is broken.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{folder} has no {CONFIG}, so it holds no model of gcbench.", "Give the folder of one.")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}.", "Export or download the model again.") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a JSON object.", "Export or download the model again.")
    check_architecture(config, str(path))
    return config


def check_architecture(config: Mapping[str, Any], where: str) -> None:
    """Refuse what gcbench cannot build, by the `config.json` alone.

    Raises:
        InputError: another architecture, or one that comes with its own code.
    """
    if config.get("auto_map"):
        raise InputError(
            f"{where} asks for code of the repository to be run (auto_map). gcbench never does that.",
            "Choose a model that gcbench has written, or one of Pointcept's checkpoints: file=NAME.pth",
        )
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        named = f"a '{kind}'" if isinstance(kind, str) else "of an architecture that it does not name"
        others = config.get("architectures")
        by = " Try transformers.AutoModel." if isinstance(others, list) else ""
        raise InputError(
            f"{where} is {named}; gcbench builds {', '.join(MODEL_TYPES)}.", f"Choose a model of gcbench.{by}"
        )


def is_trained(folder: Path) -> bool:
    """Whether a model's folder holds a segmenter, which knows classes."""
    return bool(read_model_config(folder)["model_type"] == SEGMENTATION)


def save_model_folder(opened: OpenedModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`; a trained model's file keeps its bytes.

    Raises:
        DiskFullError, OSError: it could not be written.
    """
    module = opened.module
    if isinstance(module, SparseUNet):
        origin = opened.config.get("pretraining") or {}
        sizes = {key: value for key, value in opened.config.items() if key not in ("model_type", "pretraining")}
        export_encoder(module, Encoder.model_validate_json(json.dumps(sizes)), folder, origin)
        return
    if isinstance(module, Pretrainer):
        save_weights(folder / WEIGHTS, module.state_dict(), {"format": "pt"})
    else:
        save_model(folder / WEIGHTS, module, ModelConfig.model_validate_json(json.dumps(opened.config)))
    write_atomic(folder / CONFIG, json.dumps(opened.config, indent=2) + "\n")


def _trained(file: Path) -> OpenedModel:
    model, config = load_model(file)
    return OpenedModel(model, config.model_dump(mode="json"), config.grid_size, file, config.label_set)


def _pretrainer(folder: Path, content: Mapping[str, Any]) -> OpenedModel:
    way_out = "Export or download the model again."
    try:
        config = PretrainerConfig.model_validate_json(json.dumps(content))
        recipe = config.recipe.build()
    except (ValidationError, InputError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{folder / CONFIG} is not that of a pre-trainer ({first_line}).", way_out) from error
    if not isinstance(recipe, PretrainRecipe):
        raise DataError(f"{folder / CONFIG}: its recipe is of kind '{config.recipe.kind}'.", way_out)

    def build() -> Pretrainer:
        return build_pretrainer(recipe, build_encoder(recipe.encoder), config.teacher_channels)

    blocks = sum(recipe.encoder.layers)
    model = open_model(build, folder / WEIGHTS, blocks=blocks, way_out=way_out)
    return OpenedModel(model, dict(content), recipe.data.grid_size, folder / WEIGHTS)
