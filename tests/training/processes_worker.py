"""A worker for test_launch: trains a small network in as many processes as the launcher has started."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.recipe.schema import Optimizer, Run, Schedule
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.launch import end_worker
from gcbench.training.loop import LoopSettings, StepOutput, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

STEPS, BATCH = 6, 8


class Network(nn.Module):
    """`extra` is only used by the rows of even batches: then one of two processes has no gradient for it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))
        self.extra = nn.Linear(3, 1)

    def forward(self, x: Tensor, with_extra: bool) -> Tensor:
        y: Tensor = self.layers(x)
        if not with_extra:
            return y
        return torch.cat([y[: BATCH // 2] + self.extra(x[: BATCH // 2]), y[BATCH // 2 :]])


def say(event: dict[str, Any]) -> None:
    """Events to standard output."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Train, and let the first process tell its weights."""
    accelerator = build_accelerator("no")
    rank, share = accelerator.process_index, BATCH // accelerator.num_processes
    torch.manual_seed(rank)  # DDP takes the weights of the first process
    model = Network()
    optimizer = build_optimizer(
        model.parameters(), Optimizer(lr=0.05, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=None)
    )
    schedule = Schedule(
        epochs=None, rounds=1, steps=STEPS, batch_size=BATCH, warmup=0.3, div_factor=10.0, final_div_factor=100.0
    )

    def batches(first: int) -> Any:
        for number in range(first, STEPS):
            x = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(number))
            yield number, x[rank * share : (rank + 1) * share]

    def step(module: nn.Module, batch: tuple[int, Tensor]) -> StepOutput:
        number, x = batch
        y = module(x, with_extra=number % 2 == 0 and rank == 0)
        loss = nn.functional.mse_loss(y, x.sum(dim=1, keepdim=True))
        warnings = [("odd", f"step {number}")] if rank == accelerator.num_processes - 1 else []
        return StepOutput(loss, {"loss": loss.detach()}, warnings)

    train(
        model,
        optimizer,
        build_scheduler(optimizer, schedule, STEPS),
        batches,
        step,
        LoopSettings(
            STEPS, Run(precision="no", workers=0, log_every=1, checkpoint_every=2, evaluate_every=3), None, share
        ),
        Checkpoints(folder / "checkpoints", warn=lambda message: say({"event": "warning", "message": message})),
        accelerator=accelerator,
        report=say,
        stop_requested=lambda: False,
        evaluate=lambda done: {"value": float(done)},
    )
    if accelerator.is_main_process:
        weights = torch.cat([value.flatten() for value in model.state_dict().values()]).tolist()
        say({"event": "weights", "weights": weights})
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_worker(0)
