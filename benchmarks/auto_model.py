"""How much loading through `AutoModel` and voxelising cost beside the network itself.

Baseline: reading the weights' bytes, and the bare forward pass on voxels that are ready. Against it: from
`AutoModel.from_pretrained(folder)` (hash compared, weights checked, network built) to features of every point, in one
process, after the imports.

    python benchmarks/auto_model.py [--points 100000] [--repeats 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from gcbench import AutoModel
from gcbench.data.batching import collate
from gcbench.data.samples import evaluation_sample
from gcbench.models.sparse_unet import SparseUNet
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.recipe.loader import load_recipe
from gcbench.structures import PointBatch, Scene


def room(points: int) -> Scene:
    """Noisy points on the floor and the walls of a room of 8 x 6 x 3 metres."""
    generator = np.random.default_rng(0)
    size = np.array([8.0, 6.0, 3.0])
    coord = generator.random((points, 3)) * size
    side = generator.integers(0, 5, points)
    for axis, number in ((2, 0), (0, 1), (0, 2), (1, 3), (1, 4)):
        coord[side == number, axis] = size[axis] * (number % 2)
    coord += generator.normal(scale=0.005, size=coord.shape)
    normal = generator.normal(size=coord.shape)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    color = generator.integers(0, 256, coord.shape).astype(np.uint8)
    return Scene("room", coord.astype(np.float32), color, normal.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scene, recipe = room(options.points), load_recipe("pretrain/gaussiancross").recipe
    with tempfile.TemporaryDirectory() as place:
        export_encoder(build_encoder(recipe.encoder), recipe.encoder, Path(place) / "encoder", {"grid_size": 0.02})
        AutoModel.from_pretrained(Path(place) / "encoder").save_pretrained(Path(place) / "model")
        model = AutoModel.from_pretrained(Path(place) / "model")
        batch = collate([evaluation_sample(scene, grid_size=model.grid_size, label_set="").points])
        whole, bare = [], []
        for _ in range(options.repeats + 1):  # the first is warming up
            whole.append(through_auto_model(Path(place) / "model", scene))
            bare.append(by_hand(Path(place) / "model", model.encoder, batch))
    whole, bare = whole[1:], bare[1:]
    size = sum(value.numel() for value in model.parameters())
    ratio = statistics.median(one / other for one, other in zip(whole, bare, strict=True))
    voxels = len(batch.feat)
    print(f"{options.points:,} points, {voxels:,} voxels, {size / 1e6:.1f} M parameters, {options.threads} threads")
    print(f"read and bare forward pass  {statistics.median(bare):6.2f} s")
    print(f"AutoModel to features       {statistics.median(whole):6.2f} s   {ratio:.2f} times")


def through_auto_model(folder: Path, scene: Scene) -> float:
    """Seconds from the name of a model to features of all points."""
    started = time.perf_counter()
    model = AutoModel.from_pretrained(folder)
    model.encode(scene.coord, scene.color, scene.normal)
    return time.perf_counter() - started


def by_hand(folder: Path, encoder: SparseUNet, batch: PointBatch) -> float:
    """Seconds of reading the bytes of the weights, and of the network alone on a batch that is ready."""
    started = time.perf_counter()
    (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        encoder(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
