"""The learning rate of every step, for budgets down to a single step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gcbench.recipe.schema import Optimizer, Schedule
from gcbench.training.optim import build_optimizer, build_scheduler

LR = 0.05


def rates(total: int, warmup: float) -> list[float]:
    optimizer = build_optimizer(
        [nn.Parameter(torch.zeros(1))], Optimizer(lr=LR, betas=(0.9, 0.95), weight_decay=0.0, clip_norm=None)
    )
    schedule = Schedule(
        epochs=None, rounds=1, steps=total, batch_size=1, warmup=warmup, div_factor=10.0, final_div_factor=1000.0
    )
    scheduler = build_scheduler(optimizer, schedule, total)
    found = []
    for _ in range(total):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_the_rate_rises_to_its_peak_and_falls_by_cosines() -> None:
    found = rates(100, 0.2)
    rising = [LR / 10 + (LR - LR / 10) * (1 - math.cos(math.pi * step / 19)) / 2 for step in range(20)]
    low = LR / 10 / 1000
    falling = [low + (LR - low) * (1 + math.cos(math.pi * step / 80)) / 2 for step in range(1, 81)]
    assert found == pytest.approx(rising + falling)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1, 0.25, 1 / 3, 0.5, 1.0])
def test_every_budget_and_warm_up_has_a_schedule(warmup: float) -> None:
    for total in (1, 2, 3, 4, 5, 10, 19, 20, 21, 40):
        found = rates(total, warmup)
        assert all(0 < rate <= LR * (1 + 1e-9) for rate in found), (total, found)


def test_a_warm_up_of_one_step_starts_at_the_peak() -> None:
    assert rates(20, 0.05)[0] == pytest.approx(LR)
