"""Predictions are kept per scene, keyed by all that decides them, and nothing is predicted twice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gcbench.data.storage import (
    PreparedDataset,
    describe,
    fingerprint,
    scene_file,
    scene_sha256,
    write_manifest,
    write_scene,
)
from gcbench.errors import DataError
from gcbench.protocols.predictions import Arrays, PredictionCache, prediction_key, score_scenes
from gcbench.structures import Scene

CPU = torch.device("cpu")


class Brightness:
    """Predicts which points are bright, and adds them up."""

    def __init__(self, threshold: int = 128) -> None:
        self.threshold, self.calls, self.total = threshold, 0, 0

    def settings(self) -> Mapping[str, Any]:
        return {"threshold": self.threshold}

    def predict(self, model: nn.Module, scene: Scene, device: torch.device) -> Arrays:
        assert not model.training
        self.calls += 1
        return {"bright": np.asarray(scene.color[:, 0] >= self.threshold)}

    def scorer(self) -> Brightness:
        self.total = 0
        return self

    def measure(self, scene: Scene, prediction: Arrays) -> int:
        assert len(prediction["bright"]) == len(scene)
        return int(prediction["bright"].sum())

    def insert(self, scene_name: str, counts: int) -> None:
        self.total += counts

    def result(self) -> int:
        return self.total


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    entries = {}
    for number in range(3):
        draw = np.random.default_rng(number)
        scene = Scene(
            name=f"scene000{number}_00",
            coord=draw.uniform(0, 1, (60, 3)).astype(np.float32),
            color=draw.integers(0, 256, (60, 3)).astype(np.uint8),
            normal=np.tile(np.float32([1, 0, 0]), (60, 1)),
            segments={"scannet20": draw.integers(-1, 3, 60).astype(np.int16)},
        )
        write_scene(scene_file(tmp_path / "data", "scenes", scene.name), scene, {})
        entries[scene.name] = describe(scene, scene_sha256(scene), [])
    splits = {"val": list(entries)}
    header = {"format_version": 1, "layout": "scannet", "synthetic": True, "label_sets": ["scannet20"], "normals": "x"}
    rest = {"splits": splits, "scenes": entries, "notes": [], "fingerprint": fingerprint(entries, splits)}
    write_manifest(tmp_path / "data", header | rest)
    return PreparedDataset.open(tmp_path / "data")


def test_the_key_is_all_that_a_prediction_depends_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    key = prediction_key(Brightness(), model, "data")
    assert prediction_key(Brightness(), model, "data") == key
    others = {prediction_key(Brightness(), model, "other data"), prediction_key(Brightness(3), model, "data")}
    running = model[1].running_mean
    assert isinstance(running, Tensor)
    running += 1  # a buffer counts like a weight
    assert len(others | {key, prediction_key(Brightness(), model, "data")}) == 4


def test_a_cache_gives_back_what_was_stored_or_nothing(tmp_path: Path) -> None:
    cache = PredictionCache(tmp_path)
    prediction = {"classes": np.array([0, 199, -1], np.int16), "scores": np.zeros(0, np.float32)}
    assert cache.load("Area_1/office_1") is None
    cache.store("Area_1/office_1", prediction)
    loaded = cache.load("Area_1/office_1")
    assert loaded is not None
    assert {name: (values.dtype, values.tolist()) for name, values in loaded.items()} == {
        name: (values.dtype, values.tolist()) for name, values in prediction.items()
    }
    file = tmp_path / "Area_1" / "office_1.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.load("Area_1/office_1") is None


def test_a_scoring_that_was_cut_off_goes_on(dataset: PreparedDataset, tmp_path: Path) -> None:
    names = dataset.scene_names("val")

    def scored(inference: Brightness, weight: float = 0.0) -> tuple[int, int]:
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, weight)
        nn.init.zeros_(model.bias)
        events: list[dict[str, Any]] = []
        metrics = score_scenes(inference, model, dataset, names, CPU, events.append, kept=tmp_path / "predictions")
        assert [event["step"] for event in events if event["event"] == "progress"] == [1, 2, 3]
        return metrics, inference.calls

    first, calls = scored(Brightness())
    assert calls == 3
    assert first == sum(int((dataset.scene(name).color[:, 0] >= 128).sum()) for name in names)
    assert scored(Brightness()) == (first, 0)
    (folder,) = (tmp_path / "predictions").iterdir()
    (folder / f"{names[1]}.safetensors").unlink()
    assert scored(Brightness()) == (first, 1)
    assert scored(Brightness(), weight=1.0)[1] == 3  # other weights have a folder of their own


def test_nothing_is_kept_unless_asked_for(dataset: PreparedDataset, tmp_path: Path) -> None:
    names = dataset.scene_names("val")
    before = sorted(tmp_path.rglob("*"))
    score_scenes(Brightness(), nn.Linear(1, 1), dataset, names, CPU, lambda event: None)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_scene_is_an_error(dataset: PreparedDataset) -> None:
    with pytest.raises(DataError, match="no scene to score"):
        score_scenes(Brightness(), nn.Linear(1, 1), dataset, (), CPU, lambda event: None)
