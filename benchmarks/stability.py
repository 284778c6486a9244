"""Does pre-training stay finite? Thousands of steps of the real model on rooms, some of which teach nothing.

    python benchmarks/stability.py [--data PREPARED] [--steps 2000] [--precision no bf16] [--every 10] [--json FILE]

A small U-Net, 16 x 16 x 16 voxels and views of 32 x 24 pixels, so that 2000 steps take minutes on a CPU. Every so many
steps a scene is spoilt: no depth, cameras turned away, a single point, or a network that prunes every anchor. Counted
are losses, gradients and parameters that are not finite, and the warnings.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gcbench.data.prepare import prepare_scannet
from gcbench.data.storage import PreparedDataset
from gcbench.data.synthetic_rooms import generate_rooms
from gcbench.models.gaussian_heads import GaussianHeads
from gcbench.models.pretrainer import Pretrainer
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.pretrain import PretrainBatches, pretrain_samples
from gcbench.protocols.pretrain_objective import PretrainingObjective
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import PretrainRecipe
from gcbench.structures import PointBatch, PosedViews
from gcbench.training.optim import build_optimizer, build_scheduler

MICRO = (
    "data.grid_size=0.15",
    "data.views=2",
    "data.view_width=32",
    "data.view_height=24",
    "encoder.base_channels=8",
    "encoder.channels=[16,24,24,16]",
    "encoder.layers=[1,1,1,1]",
    "volume.grid=[16,16,16]",
    "volume.dense_channels=[16,16]",
    "gaussians.hidden=16",
    "gaussians.feature_channels=8",
    "gaussians.min_kept=64",
    "teacher.rows=6",
    "schedule.batch_size=2",
)
FAULTS = ("no-depth", "nothing-in-view", "one-point", "all-pruned")


@dataclass
class Counts:
    """Steps with a loss, gradients or parameters that are not finite, and with a parameter that took no part."""

    losses: int = 0
    gradients: int = 0
    parameters: int = 0
    idle: int = 0


def rooms(folder: Path) -> Path:
    """A prepared set of four synthetic rooms."""
    generate_rooms(folder / "raw", layout="scannet", scenes=4, val=0, seed=0, frames=12, frame_size=(64, 48), workers=1)
    prepare_scannet(folder / "raw", folder / "prepared", workers=1)
    return folder / "prepared"


def micro_recipe(data: PreparedDataset, steps: int, overrides: Sequence[str]) -> PretrainRecipe:
    """The preset tiny, made small."""
    splits = [name for name, scenes in data.splits.items() if scenes]
    own = (f"schedule.steps={steps}", f"data.splits=[{','.join(splits)}]")
    recipe = load_recipe("pretrain/gaussiancross", preset="tiny", overrides=(*MICRO, *own, *overrides)).recipe
    assert isinstance(recipe, PretrainRecipe)
    return recipe


def spoil(points: PointBatch, views: list[PosedViews], fault: str) -> tuple[PointBatch, list[PosedViews]]:
    """The batch with its last scene spoilt."""
    last = views[-1]
    if fault == "no-depth":
        last = replace(last, depths=torch.full_like(last.depths, float("nan")))
    elif fault == "nothing-in-view":
        viewmats = last.viewmats.clone()
        viewmats[:, 2, 3] -= 1000.0
        last = replace(last, viewmats=viewmats)
    elif fault == "one-point":
        start = int(points.offsets[-2])
        middle = points.coord[start:].mean(dim=0)
        kept = torch.arange(start + 1)
        kept[-1] = start + (points.coord[start:] - middle).norm(dim=1).argmin()
        points = PointBatch(
            points.coord[kept],
            points.grid_coord[kept],
            points.feat[kept],
            torch.cat((points.offsets[:-1], torch.tensor([len(kept)]))),
            names=points.names,
        )
    return points, [*views[:-1], last]


def run(data: Path, steps: int, precision: str, every: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train so many steps; returns counts, losses and time."""
    dataset = PreparedDataset.open(data)
    recipe = micro_recipe(dataset, steps, overrides)
    objective = PretrainingObjective(recipe, dataset, torch.device("cpu"))
    torch.manual_seed(0)
    model = build_pretrainer(recipe, build_encoder(recipe.encoder), objective.teacher_dim).train()
    optimizer = build_optimizer(model.parameters(), recipe.optimizer)
    scheduler = build_scheduler(optimizer, recipe.schedule, steps)
    batches = PretrainBatches(pretrain_samples(recipe, dataset, seed=0), recipe.schedule.batch_size)
    faults, counts, warnings, losses = cycle(FAULTS), Counts(), Counter[str](), list[float]()
    start = time.perf_counter()
    for number in range(steps):
        fault = next(faults) if every and number % every == every - 1 else ""
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), Pruned(model.heads, fault):
            predictions, loss = objective(model, *spoil(*batches[number], fault))
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm or float("inf"))
        observe(model, loss.total, counts)
        optimizer.step()
        scheduler.step()
        warnings.update(kind for prediction in predictions for kind in prediction.warnings)
        if not fault:
            losses.append(float(loss.total.detach()))
    tenth = max(len(losses) // 20, 1)
    return {
        "precision": precision,
        "steps": steps,
        "not_finite": {"losses": counts.losses, "gradients": counts.gradients, "parameters": counts.parameters},
        "steps_with_idle_parameters": counts.idle,
        "warnings": dict(sorted(warnings.items())),
        "loss_start": sum(losses[:tenth]) / tenth,
        "loss_end": sum(losses[-tenth:]) / tenth,
        "largest_loss": max(losses),
        "milliseconds_per_step": 1e3 * (time.perf_counter() - start) / steps,
    }


class Pruned:
    """Inside, no anchor is above the threshold, if the fault says so."""

    def __init__(self, heads: GaussianHeads, fault: str) -> None:
        self.heads, self.wanted, self.threshold = heads, fault == "all-pruned", heads.threshold

    def __enter__(self) -> None:
        if self.wanted:
            self.heads.threshold = 1.0

    def __exit__(self, *error: object) -> None:
        self.heads.threshold = self.threshold


def observe(model: Pretrainer, loss: Tensor, counts: Counts) -> None:
    """Count what is not finite after a backward pass."""
    counts.losses += not bool(torch.isfinite(loss))
    counts.idle += any(value.grad is None for value in model.parameters())
    counts.gradients += not all(
        bool(torch.isfinite(value.grad).all()) for value in model.parameters() if value.grad is not None
    )
    counts.parameters += not all(bool(torch.isfinite(value).all()) for value in model.parameters())


def show(results: Sequence[dict[str, Any]], console: Console) -> None:
    """The results as a table."""
    table = Table(title="Stability of pre-training")
    for name in ("precision", "steps", "not finite: losses, gradients, parameters", "idle", "loss", "ms", "warnings"):
        table.add_column(name)
    for result in results:
        table.add_row(
            result["precision"],
            str(result["steps"]),
            ", ".join(str(count) for count in result["not_finite"].values()),
            str(result["steps_with_idle_parameters"]),
            f"{result['loss_start']:.3f} -> {result['loss_end']:.3f}",
            f"{result['milliseconds_per_step']:.0f}",
            ", ".join(f"{kind} {count}" for kind, count in result["warnings"].items()),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a prepared dataset with frames; default: synthetic rooms")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--precision", choices=("no", "bf16"), nargs="+", default=["no", "bf16"])
    parser.add_argument("--every", type=int, default=10, help="every so many steps a scene is spoilt; 0: never")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or rooms(Path(folder))
        results = [
            run(data, options.steps, precision, options.every, options.overrides) for precision in options.precision
        ]
    show(results, Console())
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
