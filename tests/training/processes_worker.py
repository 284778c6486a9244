"""A worker for tests: trains a small network in as many processes as the launcher has started.

Its folder may hold `options.json`: steps, batchnorm, accumulate, and "spoil", [process, step] whose input is NaN.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.data.samples import Share
from gcbench.objectives.supervised import segmentation_loss
from gcbench.recipe.schema import Optimizer, Run, Schedule
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.gather import gather_rows
from gcbench.training.launch import end_worker
from gcbench.training.loop import LoopSettings, Shares, StepOutput, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

BATCH, CLASSES = 16, 5


class Network(nn.Module):
    """`extra` is only used by the rows of even batches in the first process: the others have no gradient for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))
        self.extra = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor, extra_rows: int) -> Tensor:
        y: Tensor = self.layers(x)
        return torch.cat([y[:extra_rows] + self.extra(x[:extra_rows]), y[extra_rows:]]) if extra_rows else y


def say(event: dict[str, Any]) -> None:
    """Events to standard output."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Train, and let the first process tell its weights."""
    file = folder / "options.json"
    options = {"steps": 6, "batchnorm": "synchronised", "accumulate": 1, "spoil": []}
    options |= json.loads(file.read_text()) if file.exists() else {}
    total = options["steps"]
    run = Run(
        precision="no",
        batchnorm=options["batchnorm"],
        accumulate=options["accumulate"],
        skip_limit=3,
        keep_checkpoints=2,
        workers=0,
        log_every=1,
        checkpoint_every=2,
        evaluate_every=3,
    )
    accelerator = build_accelerator("no")
    rank = accelerator.process_index
    share = Share(rank, accelerator.num_processes, run.accumulate)
    torch.manual_seed(rank)  # DDP takes the weights of the first process
    model = Network()
    optimizer = build_optimizer(
        model.parameters(), Optimizer(lr=0.02, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=None)
    )
    schedule = Schedule(
        epochs=None, rounds=1, steps=total, batch_size=BATCH, warmup=0.3, div_factor=10.0, final_div_factor=100.0
    )

    def batches(first: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        for number in range(first, total):
            generator = torch.Generator().manual_seed(number)
            x = torch.randn(BATCH, 3, generator=generator)
            labels = torch.where(x[:, 2] > 1, -1, x.argmax(dim=1) + 2 * (x[:, 1] > 0))
            if [rank, number + 1] in options["spoil"]:
                x[:] = float("nan")
            for rows in share.of(torch.arange(BATCH)):
                yield number, x[rows], labels[rows]

    def step(module: nn.Module, batch: tuple[int, Tensor, Tensor], shares: Shares) -> StepOutput:
        number, x, labels = batch
        first_half = rank == 0 and run.accumulate == 1 and number % 2 == 0
        gather = gather_rows if run.accumulate == 1 else None
        logits = module(x, min(BATCH // 2, len(x)) if first_half else 0)
        loss = segmentation_loss(
            logits, labels, lovasz_weight=0.0 if gather is None else 1.0, share=shares[0], gather=gather
        )
        warnings = [("odd", f"step {number}")] if rank == accelerator.num_processes - 1 else []
        return StepOutput(loss.total, {"loss": loss.total.detach()}, warnings)

    train(
        model,
        optimizer,
        build_scheduler(optimizer, schedule, total),
        batches,
        step,
        LoopSettings(total, run, None, BATCH // share.processes, faults=folder / "faults"),
        Checkpoints(folder / "checkpoints", warn=lambda message: say({"event": "warning", "message": message})),
        accelerator=accelerator,
        report=say,
        stop_requested=lambda: False,
        evaluate=lambda done: {"value": float(done)},
        weigh=lambda batch: (int((batch[2] >= 0).sum()),),
    )
    if accelerator.is_main_process:
        weights = torch.cat([value.flatten() for value in model.state_dict().values()]).tolist()
        say({"event": "weights", "weights": weights})
    accelerator.end_training()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        say({"event": "error", "message": str(error), "way_out": "", "exit_code": 1})
        end_worker(1)
    end_worker(0)
