"""What the training loop costs: its steps beside a bare loop of the same steps, in turns.

    python benchmarks/loop_overhead.py [--steps 40] [--pairs 5] [--size micro|demo] [--data PREPARED] [--tracker NAME]

The bare loop computes the loss, its gradient and its norm, and steps optimiser and schedule; nothing else. The loop
also guards batch-norm statistics, agrees on stops, measures time, logs every tenth step and, with --tracker, tells
TensorBoard. Batches are made beforehand. Prints the medians of the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from stability import MICRO, rooms  # beside this file
from torch import nn

from gcbench.data.storage import PreparedDataset
from gcbench.models.pretrainer import Pretrainer
from gcbench.protocols.encoders import build_encoder
from gcbench.protocols.pretrain import PretrainBatch, PretrainBatches, pretrain_samples
from gcbench.protocols.pretrain_objective import PretrainingObjective
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import PretrainRecipe
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Shares, StepOutput, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler
from gcbench.training.trackers import TRACKERS_VARIABLE, Trackers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--size", choices=("micro", "demo"), default="micro")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tracker", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ[TRACKERS_VARIABLE] = options.tracker
    with tempfile.TemporaryDirectory() as folder:
        dataset = PreparedDataset.open(options.data or rooms(Path(folder)))
        splits = [name for name, scenes in dataset.splits.items() if scenes]
        sizes = MICRO if options.size == "micro" else ()
        own = (f"schedule.steps={options.steps}", f"data.splits=[{','.join(splits)}]", "run.checkpoint_every=1000000")
        recipe = load_recipe("pretrain/gaussiancross", preset="tiny", overrides=(*sizes, *own)).recipe
        assert isinstance(recipe, PretrainRecipe)
        objective = PretrainingObjective(recipe, dataset, torch.device("cpu"))
        made = PretrainBatches(pretrain_samples(recipe, dataset, seed=0), recipe.schedule.batch_size)
        batches = [made[number] for number in range(options.steps)]
        loops = {"bare": bare, "loop": whole}
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for name, loop in [("bare", bare), *list(loops.items()) * options.pairs]:  # the first one only warms up
            torch.manual_seed(0)
            model = build_pretrainer(recipe, build_encoder(recipe.encoder), objective.teacher_dim).train()
            seconds[name].append(loop(model, recipe, objective, batches, Path(folder) / "run"))
        del seconds["bare"][0]
    each = {name: statistics.median(values) / options.steps for name, values in seconds.items()}
    ratios = [loop / alone - 1 for alone, loop in zip(seconds["bare"], seconds["loop"], strict=True)]
    Console(highlight=False).print(
        f"{options.size}: {1e3 * each['loop']:.2f} ms per step beside {1e3 * each['bare']:.2f} ms bare: "
        f"{each['loop'] / each['bare'] - 1:+.1%} (pairs {min(ratios):+.1%} to {max(ratios):+.1%})"
    )


def bare(
    model: Pretrainer,
    recipe: PretrainRecipe,
    objective: PretrainingObjective,
    batches: list[PretrainBatch],
    folder: Path,
) -> float:
    """Seconds of a loop that does only what learning needs."""
    optimizer = build_optimizer(model.parameters(), recipe.optimizer)
    scheduler = build_scheduler(optimizer, recipe.schedule, len(batches))
    started = time.perf_counter()
    for points, views in batches:
        _, loss = objective(model, points, views)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.clip_norm or float("inf"))
        optimizer.step()
        scheduler.step()
    return time.perf_counter() - started


def whole(
    model: Pretrainer,
    recipe: PretrainRecipe,
    objective: PretrainingObjective,
    batches: list[PretrainBatch],
    folder: Path,
) -> float:
    """Seconds of the training loop's steps, from the first to the last: without its only checkpoint."""
    optimizer = build_optimizer(model.parameters(), recipe.optimizer)
    times: list[float] = []

    def step(module: nn.Module, batch: PretrainBatch, shares: Shares) -> StepOutput:
        _, loss = objective(module, *batch)
        return StepOutput(loss.total, {"loss": loss.total.detach()})

    def timed(first: int) -> Iterator[PretrainBatch]:
        times.append(time.perf_counter())
        return iter(batches[first:])

    def report(event: dict[str, object]) -> None:
        if event["event"] == "step" and event["step"] == len(batches):
            times.append(time.perf_counter())

    train(
        model,
        optimizer,
        build_scheduler(optimizer, recipe.schedule, len(batches)),
        timed,
        step,
        LoopSettings(
            len(batches),
            recipe.run.model_copy(update={"log_every": 10}),
            recipe.optimizer.clip_norm,
            trackers=Trackers(folder, "overhead", {}),
        ),
        _NoCheckpoints(folder, warn=print),
        accelerator=build_accelerator("no"),
        report=report,
        stop_requested=lambda: False,
    )
    return times[1] - times[0]


class _NoCheckpoints(Checkpoints):
    def save(self, step: int, state: object, *, best: int | None = None) -> None:
        """Keep nothing."""


if __name__ == "__main__":
    main()
