"""One training sample of segmentation, stage by stage: ours beside Pointcept's transforms, in one process.

    python benchmarks/training_sample.py [--reference /path/to/Pointcept] [--samples 20] [--repeats 3]

A synthetic room surface of ScanNet's density (150k vertices 2 cm apart), all transforms of the recipe semantic/scannet,
cropped to the recipe's number of voxels. Every sample is made `--repeats` times, ours and the reference's in turn, and
its fastest counts; printed are means over the samples, since what is drawn decides what there is to do. Also printed:
statistics of the samples (both must agree) and the floor, which is reading what a sample needs and writing what it has
once at the speed of a memory copy, one sort of the vertices' keys, and drawing its Gaussian noise.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import random
import sys
import time
import types
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from gcbench.data import geometry, segmentation_points, voxels
from gcbench.data.transforms import SegmentationAugmentation
from gcbench.resources import resource_path
from gcbench.structures import Float32Array, Scene

Stages = dict[str, float]
OURS = {
    "center_shift": "centre shift",
    "dropout": "dropout",
    "random_similarity": "rotations, scale, flips: draw",
    "jitter": "jitter",
    "elastic_noise": "elastic distortion: draw",
    "elastic_distortion": "elastic distortion: blur, move",
    "voxelize": "grid sample: group",
    "sphere_crop": "sphere crop",
    "augment_color": "colours",
    "features": "features",
    "labels_of": "labels",
    "take_rows": "gather rows",
}


def room(vertices: int) -> Scene:
    """Floor, walls and boxes as jittered 2 cm lattices, about `vertices` points, neighbours beside each other."""
    rng = np.random.default_rng(0)
    planes: list[tuple[tuple[float, ...], ...]] = [
        ((6.0, 0, 0), (0, 5.0, 0), (0, 0, 0)),
        ((6.0, 0, 0), (0, 0, 2.2), (0, 0, 0)),
    ]
    planes += [((0, 5.0, 0), (0, 0, 2.2), (0, 0, 0)), ((0, 5.0, 0), (0, 0, 0.8), (6, 0, 0))]
    for x, y, height in ((1.0, 1.0, 0.45), (3.5, 0.3, 0.75), (4.2, 3.2, 0.9), (0.4, 3.5, 1.8)):
        planes += [((1.4, 0, 0), (0, 0.9, 0), (x, y, height)), ((1.4, 0, 0), (0, 0, height), (x, y + 0.9, 0))]
        planes += [((0, 0.9, 0), (0, 0, height), (x, y, 0)), ((0, 0.9, 0), (0, 0, height), (x + 1.4, y, 0))]
    area = sum(float(np.linalg.norm(u) * np.linalg.norm(v)) for u, v, _ in planes)
    stretch = (vertices / area) ** 0.5 * 0.02  # vertices stay 2 cm apart, the room grows
    coord, normal, segment = [], [], []
    for number, (u, v, corner) in enumerate(planes):
        steps = [round(float(np.linalg.norm(edge)) * stretch / 0.02) for edge in (u, v)]
        grid = np.stack(np.meshgrid(*(np.arange(count) for count in steps), indexing="ij"), axis=-1).reshape(-1, 2)
        places = (grid + rng.normal(0, 0.2, grid.shape)) / steps
        towards = np.cross(u, v) / np.linalg.norm(np.cross(u, v))
        surface = places @ np.array([u, v]) * stretch + np.array(corner) * stretch
        coord.append(surface + towards * rng.normal(0, 0.004, (len(grid), 1)) + [2.0, 1.0, 0.1])
        normal.append(np.broadcast_to(towards, surface.shape))
        segment.append(np.full(len(grid), number % 20, np.int16))
    points = np.concatenate(coord).astype(np.float32)
    shade = 120 + 60 * np.sin(points * [1.3, 1.7, 2.9]) + rng.normal(0, 12, points.shape)
    labels = np.concatenate(segment)
    return Scene(
        "room",
        points,
        np.clip(shade, 0, 255).astype(np.uint8),
        np.concatenate(normal).astype(np.float32),
        {"scannet20": labels},
        labels.astype(np.int32),
    )


@contextlib.contextmanager
def timed(stages: Stages) -> Iterator[None]:
    """While it is open, the stages of our pipeline add their seconds to `stages`."""

    def watch(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                stages[name] += time.perf_counter() - start

        return watched

    places: list[tuple[Any, str, str]] = [(segmentation_points, name, label) for name, label in OURS.items()]
    places += [(geometry, "move_points", "move points")]
    places += [(geometry, "move_normals", "move normals")]
    places += [(voxels.Voxels, "draw", "grid sample: draw"), (voxels.Voxels, "grid_coord", "voxel coordinates")]
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    for owner, name, label in places:
        setattr(owner, name, watch(getattr(owner, name), label))
    try:
        yield
    finally:
        for owner, name, function in saved:
            setattr(owner, name, function)


def sample_of_ours(scene: Scene, recipe: dict[str, Any], number: int) -> tuple[Stages, Any]:
    """Seconds per stage and the sample."""
    stages: Stages = defaultdict(float)
    with timed(stages):
        start = time.perf_counter()
        sample = segmentation_points.training_points(
            scene,
            label_set="scannet20",
            grid_size=recipe["grid_size"],
            crop=recipe["crop_points"],
            augmentation=recipe["augmentation"],
            rng=np.random.default_rng(number),
        )
        total = time.perf_counter() - start
    stages["shuffle and the rest"] = total - sum(stages.values())
    stages["total"] = total
    return stages, sample


def reference_transforms(checkout: Path, recipe: dict[str, Any]) -> list[tuple[str, Any]]:
    """The transforms of Pointcept's ScanNet configuration, from a checkout, with the recipe's numbers."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torchvision")
    if "torchvision" not in sys.modules:  # only its image transforms, which are not used here, need it
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision"].transforms = types.ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
    for name in ("pointcept", "pointcept.utils", "pointcept.datasets"):  # without their __init__, which import it all
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = package
    t = importlib.import_module("pointcept.datasets.transform")
    a: SegmentationAugmentation = recipe["augmentation"]
    z, xy = ([angle / 180 for angle in angles] for angles in (a.rotate_z, a.rotate_xy))
    steps = [
        t.CenterShift(apply_z=True),
        t.RandomDropout(a.dropout_ratio, a.dropout_p),
        t.RandomRotate(angle=z, axis="z", center=[0, 0, 0], p=a.rotate_z_p),
        t.RandomRotate(angle=xy, axis="x", p=a.rotate_xy_p),
        t.RandomRotate(angle=xy, axis="y", p=a.rotate_xy_p),
        t.RandomScale(scale=list(a.scale)),
        t.RandomFlip(p=a.flip_p),
        t.RandomJitter(sigma=a.jitter_sigma, clip=a.jitter_clip),
        t.ElasticDistortion(distortion_params=[list(pair) for pair in a.elastic]),
        t.ChromaticAutoContrast(p=a.auto_contrast_p),
        t.ChromaticTranslation(p=a.color_translation_p, ratio=a.color_translation_ratio),
        t.ChromaticJitter(p=a.color_jitter_p, std=a.color_jitter_std),
        t.GridSample(grid_size=recipe["grid_size"], hash_type="fnv", mode="train", return_grid_coord=True),
        t.SphereCrop(point_max=recipe["crop_points"], mode="random"),
        t.CenterShift(apply_z=False),
        t.NormalizeColor(),
        t.ShufflePoint(),
        t.ToTensor(),
        t.Collect(keys=("coord", "grid_coord", "segment"), feat_keys=("color", "normal")),
    ]
    return [(type(step).__name__, step) for step in steps]


def sample_of_reference(scene: Scene, transforms: list[tuple[str, Any]], number: int) -> tuple[Stages, Any]:
    """Seconds per transform and the sample; as in its loader, colours and normals become float32 first."""
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - the reference draws from it
    stages: Stages = defaultdict(float)
    start = last = time.perf_counter()
    data: dict[str, Any] = {
        "coord": scene.coord.astype(np.float32),
        "color": scene.color.astype(np.float32),
        "normal": scene.normal.astype(np.float32),
        "segment": scene.segments["scannet20"].astype(np.int32),
        "instance": (np.ones(len(scene)) if scene.instance is None else scene.instance).astype(np.int32),
        "name": scene.name,
    }
    for name, step in [("to float32", lambda given: given), *transforms]:
        data = step(data)
        now = time.perf_counter()
        stages[name] += now - last
        last = now
    stages["total"] = last - start
    data["feat"][:, :3] = data["feat"][:, :3] * 2 - 1  # to the official configuration's range, not timed
    return stages, data


def statistics(coord: Float32Array, feat: Float32Array, grid: Any) -> list[float]:
    """Points, mean and spread of distance from the centre, colour and normal, and largest voxel coordinates."""
    radius = np.linalg.norm(coord[:, :2], axis=1)
    return [
        len(coord),
        radius.mean(),
        radius.std(),
        feat[:, :3].mean(),
        feat[:, :3].std(),
        *np.asarray(grid).max(axis=0),
    ]


def floor(scene: Scene, points: float, augmentation: SegmentationAugmentation) -> Stages:
    """Seconds that no implementation with one sort and numpy's generator can save."""
    read = len(scene) * 12 + points * (3 + 12 + 2 + 4)  # all coordinates; colour, normal, labels of what stays
    written = points * (12 + 12 + 24 + 8 + 8)
    source = np.ones(int(read + written) // 2 // 8)
    target = np.empty_like(source)
    keys, rng = np.random.default_rng(0).integers(0, 2**44, len(scene)), np.random.default_rng(0)
    extent = np.ptp(scene.coord, axis=0)
    nodes = sum(float(np.prod(extent // granularity + 3)) for granularity, _ in augmentation.elastic)
    normals = int(3 * (len(scene) + points + nodes))
    return {
        f"moving {(read + written) / 1e6:.1f} MB": fastest(lambda: np.copyto(target, source)),
        f"one sort of {len(keys)} int64": fastest(lambda: np.sort(keys)),
        f"{normals} Gaussian numbers": fastest(lambda: rng.standard_normal(normals, dtype=np.float32)),
    }


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of 20 runs."""
    times = []
    for _ in range(20):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def mean(runs: list[Stages]) -> Stages:
    """Mean of each stage over the samples."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: sum(run.get(name, 0.0) for run in runs) / len(runs) for name in names}


def show(title: str, stages: Stages) -> None:
    """Print one table, milliseconds."""
    print(f"\n{title}")
    for name, seconds in stages.items():
        print(f"  {name:32s} {1000 * seconds:8.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="a checkout of Pointcept")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vertices", type=int, default=150_000)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    values = yaml.safe_load(resource_path("recipes", "semantic", "scannet.yaml").read_text())["values"]
    numbers = {name: entry["value"] for name, entry in {**values["data"], **values["augmentation"]}.items()}
    settings = {name: numbers.pop(name) for name in ("grid_size", "crop_points", "mix3d_p")}
    numbers = {name: tuple(value) if isinstance(value, list) else value for name, value in numbers.items()}
    recipe = {**settings, "augmentation": SegmentationAugmentation(**numbers)}
    scene = room(options.vertices)
    makers: dict[str, Callable[[int], tuple[Stages, Any]]] = {"ours": lambda k: sample_of_ours(scene, recipe, k)}
    if options.reference:
        transforms = reference_transforms(options.reference, recipe)
        makers["reference"] = lambda k: sample_of_reference(scene, transforms, k)
    runs: dict[str, list[Stages]] = {name: [] for name in makers}
    facts: dict[str, list[list[float]]] = {name: [] for name in makers}
    for number in range(options.samples):
        tries: dict[str, list[Stages]] = {name: [] for name in makers}
        for _ in range(options.repeats):
            for name, make in makers.items():
                stages, sample = make(number)
                tries[name].append(stages)
                if len(tries[name]) == 1:
                    fields = sample if isinstance(sample, dict) else vars(sample)
                    facts[name].append(
                        statistics(*(np.asarray(fields[key]) for key in ("coord", "feat", "grid_coord")))
                    )
        for name, found in tries.items():
            runs[name].append(min(found, key=lambda stages: stages["total"]))
    print(f"{len(scene)} vertices, {options.samples} samples, fastest of {options.repeats}, one thread")
    for name, found in runs.items():
        show(name, mean(found))
        print("  points | radius, its spread | colour, its spread | largest voxel coordinates:")
        print("  " + "  ".join(f"{value:.5g}" for value in np.mean(facts[name], axis=0)))
    least = floor(scene, float(np.mean(facts["ours"], axis=0)[0]), recipe["augmentation"])
    show("floor", least | {"total": sum(least.values())})
    ours = mean(runs["ours"])["total"]
    print(f"\nours / floor: {ours / sum(least.values()):.1f}")
    if options.reference:
        theirs = mean(runs["reference"])
        print(f"reference / ours: {theirs['total'] / ours:.1f} times faster")
        rest = theirs["total"] - theirs["Collect"]  # whose loop over all rows is newer than the official code
        print(f"without the reference's Collect: {rest / ours:.1f} times faster")


if __name__ == "__main__":
    main()
