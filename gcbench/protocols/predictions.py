"""Predicting and scoring the scenes of a split one by one; what was predicted before is not predicted again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.structures import Scene
from gcbench.training.loop import Report

Arrays = Mapping[str, NDArray[Any]]
Metrics = TypeVar("Metrics", covariant=True)


class Inference(Protocol[Metrics]):
    """How scenes are predicted and scored. A prediction is a few arrays by name."""

    def settings(self) -> Mapping[str, Any]:
        """All that decides a prediction but the weights and the data, as JSON."""

    def predict(self, model: nn.Module, scene: Scene, device: torch.device) -> Arrays:
        """Predict a scene; the model is in eval mode on `device`."""

    def scorer(self) -> SceneScorer[Metrics]:
        """An empty scorer."""


class SceneScorer(Protocol[Metrics]):
    """Collects what is counted in scenes."""

    def measure(self, scene: Scene, prediction: Arrays) -> Any:
        """The counts of one scene, which is not added.

        Raises:
            DataError: the scene has no labels.
        """

    def insert(self, scene_name: str, counts: Any) -> None:
        """Add a scene that was measured."""

    def result(self) -> Metrics:
        """The metrics over all scenes."""


@dataclass(frozen=True)
class PredictionCache:
    """Predictions by scene, a safetensors file each; a file is whole or not there.

    Attributes:
        folder: of one key (`prediction_key`): other weights or another way to predict have a folder of their own.
    """

    folder: Path

    def load(self, scene_name: str) -> Arrays | None:
        """The prediction of a scene, or None if there is none that can be read."""
        file = self._file(scene_name)
        if not file.is_file():
            return None
        try:
            return load_file(file)
        except (OSError, SafetensorError):
            return None

    def store(self, scene_name: str, prediction: Arrays) -> None:
        """Keep the prediction of a scene."""
        write_atomic(self._file(scene_name), save(dict(prediction)))

    def _file(self, scene_name: str) -> Path:
        return self.folder / f"{scene_name}.safetensors"


def prediction_key(inference: Inference[Any], model: nn.Module, data_fingerprint: str) -> str:
    """16 hex digits of all that a prediction depends on: weights and buffers, data, and how it is made."""
    digest = hashlib.sha256(json.dumps([inference.settings(), data_fingerprint], sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def score_scenes(
    inference: Inference[Metrics],
    model: nn.Module,
    dataset: PreparedDataset,
    names: Sequence[str],
    device: torch.device,
    report: Report,
    *,
    kept: Path | None = None,
) -> Metrics:
    """Predict and score scenes one by one; several processes share them, and each gets the metrics of all.

    Args:
        inference: how.
        model: what predicts; it ends in eval mode on `device`.
        dataset: where the scenes are.
        names: of the scenes.
        device: where to compute.
        report: gets progress.
        kept: a folder for the predictions, so that a scoring that was cut off goes on; None keeps none.

    Raises:
        DataError: a scene has no labels, or there is no scene.
    """
    if not names:
        raise DataError(f"There is no scene to score in {dataset.root}.", "Check the splits of the table's column.")
    model.to(device).eval()
    scorer, state = inference.scorer(), PartialState()
    cache = PredictionCache(kept / prediction_key(inference, model, dataset.fingerprint)) if kept else None
    counts: dict[str, Any] = {}
    for number, name in enumerate(names[state.process_index :: state.num_processes], start=1):
        scene = dataset.scene(name)
        prediction = cache.load(name) if cache else None
        if prediction is None:
            prediction = inference.predict(model, scene, device)
            if cache:
                cache.store(name, prediction)
        counts[name] = scorer.measure(scene, prediction)
        done = min(number * state.num_processes, len(names))
        report({"event": "progress", "step": done, "total": len(names), "phase": "scoring"})
    if state.num_processes > 1:
        counts = {name: count for part in gather_object([counts]) for name, count in part.items()}
    for name in names:
        scorer.insert(name, counts[name])
    return scorer.result()
