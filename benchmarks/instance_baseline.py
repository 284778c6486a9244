"""A trained instance model beside connected components of the geometry, which has seen no label, on the same scenes.

    python benchmarks/instance_baseline.py RUN [--radius 0.1 0.15 0.2 0.3] [--planes 4 6 8]

RUN is the folder of a finished `gcbench reproduce table4` training. The geometry: the largest planes are taken away one
by one (RANSAC), what is left falls into connected components. It knows no classes, so both are scored with all classes
taken as one; beside that, the components get the trained model's classes. Of all settings the baseline's best is
printed, chosen on the scored scenes themselves: more than it could have in earnest.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gcbench.data.labels import load_label_set
from gcbench.data.samples import evaluation_sample
from gcbench.data.storage import PreparedDataset
from gcbench.models.clustering import cluster_points
from gcbench.models.pointgroup import PointGroup, Proposals
from gcbench.protocols.instance import InstanceInference
from gcbench.protocols.jobs import InstanceJob, read_job
from gcbench.protocols.semantic_inference import nearest_voxel
from gcbench.protocols.trained_models import load_model, model_file
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.protocols import load_protocol
from gcbench.structures import Float32Array, Int64Array, LabelSet, Scene

INLIER = 0.05  # metres from a plane
TRIES = 300  # planes through three points
SMALLEST_PLANE = 0.03  # of all points


@dataclass(frozen=True)
class Predicted:
    """One scene: the trained model's proposals, and the points of its voxels for the baseline."""

    scene: Scene
    trained: Proposals
    coord: Float32Array
    nearest: Int64Array
    layers: Int64Array


def main() -> None:
    """Print both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--radius", type=float, nargs="+", default=[0.1, 0.15, 0.2, 0.3], help="metres")
    parser.add_argument("--planes", type=int, nargs="+", default=[4, 6, 8], help="how many are taken away")
    options = parser.parse_args()
    job = read_job(options.run / "job.json")
    assert isinstance(job, InstanceJob), "an instance run"
    model, config = load_model(model_file(options.run))
    assert isinstance(model, PointGroup)
    assert config.grouping is not None
    label_set, protocol = load_label_set(config.label_set), load_protocol(config.evaluation)
    inference = InstanceInference(config.grouping, config.grid_size, label_set, protocol)
    dataset = PreparedDataset.open(job.data)
    scenes = [
        predict(inference, model, dataset.scene(name), max(options.planes)) for name in dataset.scene_names(job.val)
    ]
    show("trained model", score(inference, [(one, one.trained) for one in scenes]), "its own classes")
    show("trained model", agnostic(inference, [(one, one.trained) for one in scenes]), "all classes as one")
    best: dict[str, tuple[InstanceMetrics, str]] = {}
    for radius, planes in itertools.product(options.radius, options.planes):
        found = [(one, components(inference, one, radius, planes)) for one in scenes]
        setting = f"radius {radius} m, {planes} planes"
        for name, metrics in (("classes", score(inference, found)), ("as one", agnostic(inference, found))):
            if name not in best or metrics.map50 > best[name][0].map50:
                best[name] = metrics, setting
    show("components", best["classes"][0], f"the trained model's classes; {best['classes'][1]}")
    show("components", best["as one"][0], f"all classes as one; {best['as one'][1]}")


def predict(inference: InstanceInference, model: PointGroup, scene: Scene, planes: int) -> Predicted:
    """What the model finds, and the scene's planes."""
    sample = evaluation_sample(scene, grid_size=inference.grid_size, label_set=inference.label_set.name)
    coord = sample.points.coord
    trained = inference.propose(model, scene, torch.device("cpu"))
    return Predicted(scene, trained, coord, nearest_voxel(sample), plane_of_point(coord, planes))


def plane_of_point(coord: Float32Array, planes: int) -> Int64Array:
    """[M]: number of the plane that each point lies on, the largest first; `planes` where it lies on none."""
    draw = np.random.default_rng(0)
    layer = np.full(len(coord), planes)
    for number in range(planes):
        left = np.flatnonzero(layer == planes)
        if len(left) < 3:
            break
        best = np.zeros(0, np.int64)
        for corners in draw.choice(left, (TRIES, 3)):
            a, b, c = coord[corners].astype(float)
            normal = np.cross(b - a, c - a)
            length = np.linalg.norm(normal)
            if length < 1e-6:
                continue
            inside = left[np.abs((coord[left] - a) @ (normal / length)) < INLIER]
            if len(inside) > len(best):
                best = inside
        if len(best) < SMALLEST_PLANE * len(coord):
            break
        layer[best] = number
    return layer


def components(inference: InstanceInference, one: Predicted, radius: float, planes: int) -> Proposals:
    """Connected components of what lies on none of the largest planes; classes and scores of the trained model."""
    free = one.layers >= planes
    clusters = cluster_points(
        one.coord,
        np.where(free, 1, 0),
        np.zeros(len(free), np.int64),
        radius=radius,
        minimum_points=inference.grouping.proposal_minimum + 1,
        ignored=(0,),
    )[one.nearest]
    count = int(clusters.max(initial=-1)) + 1
    of_trained = np.append(one.trained.classes, inference.counted[0])[one.trained.of_point]
    classes = [np.bincount(of_trained[clusters == k], minlength=1).argmax() for k in range(count)]
    sizes = np.bincount(clusters[clusters >= 0], minlength=count)
    return Proposals(np.array(classes, np.int64), (sizes / len(clusters)).astype(np.float32), clusters)


def score(inference: InstanceInference, found: list[tuple[Predicted, Proposals]]) -> InstanceMetrics:
    """With classes, as a table has it."""
    return _score(inference.label_set, inference, found, lambda classes: classes)


def agnostic(inference: InstanceInference, found: list[tuple[Predicted, Proposals]]) -> InstanceMetrics:
    """All classes that have instances as one class."""
    left_out = [name for k, name in enumerate(inference.label_set.classes) if k not in inference.counted]
    merged = replace(inference.label_set, classes=(*left_out, "object"), ids=tuple(range(len(left_out) + 1)), groups={})
    table = np.full(len(inference.label_set) + 1, -1)  # the last for class -1
    table[: len(inference.label_set)] = len(left_out)
    for k, name in enumerate(inference.label_set.classes):
        if name in left_out:
            table[k] = left_out.index(name)
    return _score(merged, inference, found, lambda classes: table[classes])


def _score(
    label_set: LabelSet,
    inference: InstanceInference,
    found: list[tuple[Predicted, Proposals]],
    map_classes: Callable[[Int64Array], Int64Array],
) -> InstanceMetrics:
    scorer = InstanceScorer(label_set, inference.protocol)
    for one, proposals in found:
        scene = one.scene
        assert scene.instance is not None
        scorer.add(
            scene.name,
            InstancePredictions(map_classes(proposals.classes), proposals.scores, proposals.masks()),
            InstanceTarget(
                map_classes(scene.segments[inference.label_set.name].astype(np.int64)), scene.instance.astype(np.int64)
            ),
        )
    return scorer.result()


def show(what: str, metrics: InstanceMetrics, how: str) -> None:
    """One line."""
    values = f"AP25 {100 * metrics.map25:5.1f}   AP50 {100 * metrics.map50:5.1f}   mAP {100 * metrics.map:5.1f}"
    print(f"{what:<14} {values}   {how}")


if __name__ == "__main__":
    main()
