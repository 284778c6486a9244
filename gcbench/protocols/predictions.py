"""Predicting and scoring the scenes of a split one by one; what was predicted before is not predicted again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
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
    """Collects predictions."""

    def add(self, scene: Scene, prediction: Arrays) -> None:
        """Score one scene.

        Raises:
            DataError: the scene has no labels.
        """

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
    """Predict and score scenes one by one.

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
    scorer = inference.scorer()
    cache = PredictionCache(kept / prediction_key(inference, model, dataset.fingerprint)) if kept else None
    for number, name in enumerate(names, start=1):
        scene = dataset.scene(name)
        prediction = cache.load(name) if cache else None
        if prediction is None:
            prediction = inference.predict(model, scene, device)
            if cache:
                cache.store(name, prediction)
        scorer.add(scene, prediction)
        report({"event": "progress", "step": number, "total": len(names), "phase": "scoring"})
    return scorer.result()
