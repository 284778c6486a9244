"""Instances of a scene: from a network's output to scores on the original points, and what training refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gcbench.data.labels import load_label_set
from gcbench.errors import DataError
from gcbench.protocols.instance import InstanceInference
from gcbench.recipe.schema import Grouping
from gcbench.runs.results import InstanceResult
from gcbench.scoring.protocols import load_protocol
from gcbench.structures import PointBatch, Scene
from tests.protocols.small_segmentation import CHAIR, FLOOR, TABLE, job_of, room, run_job, write_rooms

CPU = torch.device("cpu")
GRID = 0.05
INFERENCE = InstanceInference(
    Grouping(radius=1.5, cluster_minimum=3, proposal_minimum=4),
    GRID,
    load_label_set("scannet20"),
    load_protocol("pointcept"),
)


class Oracle(nn.Module):
    """Knows classes by colour, and the centres of the three boxes."""

    centres = torch.tensor([[0.55, 0.55, 0.35], [2.25, 0.65, 0.35], [1.35, 2.05, 0.35]])

    def __init__(self, origin: Tensor, *, offsets: bool = True) -> None:
        super().__init__()
        self.origin, self.offsets = origin, offsets

    def forward(self, batch: PointBatch) -> tuple[Tensor, Tensor]:
        color = batch.feat[:, 0]
        classes = torch.where(color > 0.5, CHAIR, torch.where(color < -0.5, TABLE, FLOOR))
        logits = 10.0 * nn.functional.one_hot(classes, 20).float()
        centres = self.centres - self.origin
        nearest = torch.cdist(batch.coord, centres).argmin(dim=1)
        return logits, (centres[nearest] - batch.coord) * float(self.offsets)


def origin_of(scene: Scene) -> Tensor:
    """Of the centre shift: the middle of the box, and its floor."""
    low, high = scene.coord.min(axis=0), scene.coord.max(axis=0)
    return torch.from_numpy(np.float32([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]))


def test_a_network_that_knows_finds_every_instance() -> None:
    scene = room("scene0000_00", 0)
    prediction = INFERENCE.predict(Oracle(origin_of(scene)), scene, CPU)
    assert sorted(prediction["classes"].tolist()) == [CHAIR, CHAIR, TABLE]
    assert prediction["of_point"].shape == (len(scene),)
    scorer = INFERENCE.scorer()
    scorer.insert(scene.name, scorer.measure(scene, prediction))
    metrics = scorer.result()
    assert metrics.map == metrics.map50 == metrics.map25 == 1.0
    assert {INFERENCE.label_set.classes[k] for k in metrics.evaluated.tolist()}.isdisjoint({"wall", "floor"})


def test_scores_are_of_original_points_in_their_order() -> None:
    scene = room("scene0000_00", 0)
    order = np.random.default_rng(0).permutation(len(scene))
    assert scene.instance is not None
    shuffled = replace(
        scene,
        coord=scene.coord[order],
        color=scene.color[order],
        normal=scene.normal[order],
        segments={"scannet20": scene.segments["scannet20"][order]},
        instance=scene.instance[order],
    )
    prediction = INFERENCE.predict(Oracle(origin_of(scene)), shuffled, CPU)
    scorer = INFERENCE.scorer()
    scorer.insert(scene.name, scorer.measure(shuffled, prediction))
    assert scorer.result().map == 1.0


def test_a_scene_without_instances_has_no_score() -> None:
    scene = room("scene0000_00", 0)
    prediction = INFERENCE.predict(Oracle(origin_of(scene)), scene, CPU)
    with pytest.raises(DataError, match="Scene 'scene0000_00' has no classes of scannet20, or no instances"):
        INFERENCE.scorer().measure(replace(scene, instance=None), prediction)


def test_a_training_learns(tmp_path: Path) -> None:
    """Colours tell the classes and boxes are compact: 60 steps find most of them."""
    words = ("schedule.steps=60", "run.evaluate_every=60", "run.checkpoint_every=60", "data.grid_size=0.05")
    result, _, _ = run_job(job_of("instance", write_rooms(tmp_path / "data"), *words), tmp_path / "run")
    assert isinstance(result, InstanceResult)
    assert result.metrics["mAP25"] > 0.4
    assert set(result.classes) == set(INFERENCE.label_set.classes) - {"wall", "floor"}
    assert result.protocol.ignored == ("unlabelled", "wall", "floor")
    scorer = INFERENCE.scorer()._scorer
    for name, record in result.scenes.items():
        scorer.add_record(name, record)
    assert scorer.result().means() == result.metrics


def test_training_without_instances_is_refused(tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path / "data", instances=False)
    with pytest.raises(DataError, match="has no instances"):
        run_job(job_of("instance", dataset), tmp_path / "run")
