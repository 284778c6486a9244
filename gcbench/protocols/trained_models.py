"""Trained segmentation models in files: the weights, and as metadata all that is needed to predict with them.

A run keeps two, `RUN/models/last.safetensors` and `RUN/models/best.safetensors`; each is replaced as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from gcbench.data.labels import label_set_names, load_label_set
from gcbench.errors import DataError, InputError
from gcbench.models.pointgroup import PointGroup
from gcbench.models.segmentation import Segmenter
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.weight_files import open_model
from gcbench.recipe.schema import Checkpoint, Encoder, Grouping
from gcbench.runs.results import CheckpointScore, Result, load_result
from gcbench.training.checkpoint import save_weights

CHECKPOINTS: tuple[Checkpoint, ...] = ("last", "best")
MODEL_TYPE = "gcbench-segmentation"
_CONFIG = "config"


class ModelConfig(BaseModel):
    """What a file says of its model.

    Attributes:
        task: ``semantic``: a `Segmenter`; ``instance``: a `PointGroup`.
        label_set: its classes, in order.
        grid_size: voxel edge it was trained on, metres.
        encoder: sizes.
        level: features the head of a `Segmenter` sees.
        grouping: how the output of a `PointGroup` becomes proposals.
        evaluation: the metric policy, which also says which classes are no instances.
        origin: where it comes from: cell of a table, seed, recipe, data.
        checkpoint: which moment of the training it is of.
        score: the step, and what was measured there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model_type: Literal["gcbench-segmentation"] = "gcbench-segmentation"
    task: Literal["semantic", "instance"]
    label_set: str
    grid_size: float
    encoder: Encoder
    level: Literal["decoder", "encoder-levels"] = "decoder"
    grouping: Grouping | None = None
    evaluation: str
    origin: dict[str, Any] = {}
    checkpoint: Checkpoint = "last"
    score: CheckpointScore | None = None


@dataclass(frozen=True)
class KeptModels:
    """The last and the best model of a run.

    Attributes:
        folder: `RUN/models`.
        config: of all of them but for `checkpoint` and `score`.
        metric: the best has the highest value of it.
    """

    folder: Path
    config: ModelConfig
    metric: str

    def score(self, checkpoint: Checkpoint) -> CheckpointScore | None:
        """Step and measures of a model that is kept, else None."""
        file = self.file(checkpoint)
        return read_config(file).score if file.is_file() else None

    def file(self, checkpoint: Checkpoint) -> Path:
        """Where it lies."""
        return self.folder / f"{checkpoint}.safetensors"

    def keep(self, checkpoint: Checkpoint, model: nn.Module, step: int, metrics: Mapping[str, float]) -> None:
        """Write a model."""
        score = CheckpointScore(step=step, metrics=dict(metrics))
        config = self.config.model_copy(update={"checkpoint": checkpoint, "score": score})
        save_model(self.file(checkpoint), model, config)

    def offer(self, model: nn.Module, step: int, metrics: Mapping[str, float]) -> bool:
        """Keep a model as the best if it is better than all before it; returns whether it is, or is that one again."""
        best = self.score("best")
        if best is not None and best.step != step and _value(metrics, self.metric) <= _value(best.metrics, self.metric):
            return False
        self.keep("best", model, step, metrics)
        return True


def save_model(file: Path, model: nn.Module, config: ModelConfig) -> None:
    """Write a trained model and what it is."""
    # one key alone: safetensors writes several in an order that changes, and the file would have another hash each time
    save_weights(file, model.state_dict(), {_CONFIG: config.model_dump_json()})


def _value(metrics: Mapping[str, float], name: str) -> float:
    """A metric, below all others where it is undefined."""
    return -math.inf if math.isnan(metrics[name]) else metrics[name]


def model_file(path: Path) -> Path:
    """The file of a trained model: the given one, or of a run's folder the one that its result is of.

    Raises:
        InputError: there is none.
    """
    if path.is_dir() and (path / "result.json").is_file():
        result = load_result(path / "result.json")
        if isinstance(result, Result):
            path = path / "models" / f"{result.protocol.checkpoint}.safetensors"
    if (path / "encoder").is_dir() or (path / "config.json").is_file():
        raise InputError(
            f"{path} holds an encoder, which knows no classes.",
            "Train a model on it with `gcbench reproduce`, or take its features with `gcbench encode`.",
        )
    if not path.is_file():
        raise InputError(
            f"{path} is no trained segmentation model.",
            "Give the folder of a finished run, such as OUT/runs/semantic/NAME, or a file in its folder models.",
        )
    return path


def read_config(file: Path) -> ModelConfig:
    """What a file says of its model.

    Raises:
        InputError: it is no trained model, or of classes that gcbench does not know.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            config = ModelConfig.model_validate_json((opened.metadata() or {}).get(_CONFIG, ""))
    except (OSError, SafetensorError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"{file} is no trained segmentation model: {reason}.", "Give one of a finished run."
        ) from error
    if config.label_set not in label_set_names():
        raise InputError(f"{file}: there is no label set '{config.label_set}'.", f"{', '.join(label_set_names())}.")
    return config


def load_model(file: Path) -> tuple[Segmenter | PointGroup, ModelConfig]:
    """A trained model in eval mode, on the CPU.

    Raises:
        InputError: it is no trained model.
        DataError: the weights do not fit what the file says of them.
    """
    config = read_config(file)

    def build() -> Segmenter | PointGroup:
        encoder, classes = build_encoder(config.encoder), len(load_label_set(config.label_set))
        if config.task == "instance":
            return PointGroup(encoder, classes)
        return Segmenter(encoder, classes, level=config.level)

    blocks = sum(config.encoder.layers)
    return open_model(build, file, blocks=blocks, way_out="Train the model again."), config


def load_weights(model: nn.Module, file: Path) -> None:
    """Load all weights of a kept model.

    Raises:
        DataError: the file cannot be read, or is of another model.
    """
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read: {error}.", "Train the model again.") from error
    except RuntimeError as error:
        raise DataError(f"{file} does not fit the model: {error}", "Train the model again.") from error
