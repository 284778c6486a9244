"""The loop: learns, resumes to the bit, stops on request, survives damage, skips what is not finite, and counts the
parts of a batch as one."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gcbench.errors import InputError, Paused, RunError
from gcbench.recipe.schema import Optimizer, Run, Schedule
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Shares, StepOutput, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

STEPS = 20
OPTIMIZER = Optimizer(lr=0.05, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=None)
SCHEDULE = Schedule(
    epochs=None, rounds=1, steps=STEPS, batch_size=8, warmup=0.25, div_factor=10.0, final_div_factor=1000.0
)
RUN = Run(
    precision="no",
    batchnorm="local",
    accumulate=1,
    skip_limit=3,
    keep_checkpoints=2,
    workers=0,
    log_every=5,
    checkpoint_every=6,
    evaluate_every=10,
)
SETTINGS = LoopSettings(STEPS, RUN, None)
Step = Callable[[nn.Module, tuple[Tensor, Tensor], Shares], StepOutput]


def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(first, STEPS):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 3, generator=generator)
        yield x, x.sum(dim=1, keepdim=True)


def step(model: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    return StepOutput(loss, {"loss": float(loss.detach())})


def run(
    folder: Path,
    *,
    stop_after: int | None = None,
    step: Step = step,
    events: list[dict[str, Any]] | None = None,
    settings: LoopSettings = SETTINGS,
    batches: Callable[[int], Iterator[Any]] = batches,
    weigh: Callable[[Any], tuple[float, ...]] | None = None,
    values: Callable[[int], dict[str, float]] = lambda done: {"value": float(done)},
    model: nn.Module | None = None,
) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
    model = model or layers
    optimizer = build_optimizer(model.parameters(), OPTIMIZER)
    asked, told = count(1), [] if events is None else events
    return train(
        model,
        optimizer,
        build_scheduler(optimizer, SCHEDULE, STEPS),
        batches,
        step,
        settings,
        Checkpoints(folder, keep=settings.run.keep_checkpoints, warn=lambda text: told.append({"event": text})),
        accelerator=build_accelerator("no"),
        report=told.append,
        stop_requested=lambda: next(asked) == stop_after,
        evaluate=values,
        weigh=weigh,
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_learns_and_reports(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(tmp_path, events=events)
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [5, 10, 15, 20]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [event["step"] for event in events if event["event"] == "evaluation"] == [0, 10, 20]
    assert steps[-1]["lr"] == pytest.approx(OPTIMIZER.lr / 10 / 1000)


@pytest.mark.parametrize("stop_after", [1, 6, 13, 19])
def test_a_stopped_and_resumed_run_equals_a_straight_one(tmp_path: Path, stop_after: int) -> None:
    straight = run(tmp_path / "straight")
    with pytest.raises(Paused):
        run(tmp_path / "cut", stop_after=stop_after)
    events: list[dict[str, Any]] = []
    assert same(straight, run(tmp_path / "cut", events=events))
    assert events[0] == {"event": "resumed", "step": stop_after, "total": STEPS}


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight")
    with pytest.raises(Paused):
        run(tmp_path / "cut", stop_after=14)
    last = sorted((tmp_path / "cut").glob("*.pt"))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    events: list[dict[str, Any]] = []
    assert same(straight, run(tmp_path / "cut", events=events))
    assert "is damaged" in events[0]["event"]
    assert events[1]["step"] == 12


def spoilt(steps: Collection[int], where: str) -> Step:
    """A step that is not finite at these steps, counted from 1 over all calls: its input, its loss or its gradient."""
    calls = count(1)

    def broken(model: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
        if next(calls) not in steps:
            return step(model, batch, shares)
        if where == "input":
            return step(model, (batch[0] * float("nan"), batch[1]), shares)
        output = step(model, batch, shares)
        if where == "loss":
            return StepOutput(output.loss + float("inf"), output.values)
        weight = next(model.parameters())
        return StepOutput(output.loss + (weight - weight.detach()).abs().sqrt().sum(), output.values)

    return broken


@pytest.mark.parametrize("where", ["input", "loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_no_trace_and_is_counted(tmp_path: Path, where: str) -> None:
    events: list[dict[str, Any]] = []
    trained = run(tmp_path, step=spoilt({3, 4, 9}, where), events=events)
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())
    assert trained.get_buffer("1.num_batches_tracked") == STEPS - 3
    told = [event for event in events if event["event"] == "warning"]
    assert len(told) == 1 and told[0]["message"].startswith("step 3 was skipped: the ")
    assert [event for event in events if event["event"] == "step"][-1]["warnings"] == {"not-finite": 3}


@pytest.mark.parametrize("where", ["input", "loss", "gradient"])
def test_too_many_steps_in_a_row_stop_with_the_batch_kept(tmp_path: Path, where: str) -> None:
    settings = LoopSettings(STEPS, RUN, None, faults=tmp_path / "faults")
    with pytest.raises(RunError, match=r"3 steps in a row; step 9 was skipped.*faults.*clip_norm") as caught:
        run(tmp_path / "run", step=spoilt(range(7, 20), where), settings=settings)
    assert str(tmp_path / "faults" / "step-000000009-process-0.safetensors") in str(caught.value)
    kept = load_file(tmp_path / "faults" / "step-000000009-process-0.safetensors")
    x, y = next(batches(8))
    assert torch.equal(kept["0.0"], x) and torch.equal(kept["0.1"], y)
    assert Checkpoints(tmp_path / "run", warn=print).steps() == [6]


def test_skipped_steps_are_counted_over_a_restart(tmp_path: Path) -> None:
    with pytest.raises(Paused):
        run(tmp_path, step=spoilt({5, 6}, "loss"), stop_after=6)
    with pytest.raises(RunError, match="3 steps in a row; step 7"):
        run(tmp_path, step=spoilt({1}, "loss"))


def halves(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every batch in two parts of 3 and 5 rows."""
    for x, y in batches(first):
        yield x[:3], y[:3]
        yield x[3:], y[3:]


def test_parts_of_a_batch_count_as_one(tmp_path: Path) -> None:
    """Without batch norm and dropout; parts of unequal size count by their rows."""

    def shared(model: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
        loss = shares[0] * nn.functional.mse_loss(model(batch[0]), batch[1])
        return StepOutput(loss, {"loss": loss.detach()})

    def small() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))

    cut = LoopSettings(STEPS, RUN.model_copy(update={"accumulate": 2}), 1.0)
    logs: dict[str, list[dict[str, Any]]] = {"whole": [], "parts": []}
    options: dict[str, Any] = {"step": shared, "weigh": lambda batch: (len(batch[0]),)}
    whole = run(
        tmp_path / "whole", model=small(), settings=LoopSettings(STEPS, RUN, 1.0), events=logs["whole"], **options
    )
    parts = run(tmp_path / "parts", model=small(), settings=cut, batches=halves, events=logs["parts"], **options)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for left, right in zip(logs["whole"], logs["parts"], strict=True):
        for key in left.keys() & {"loss", "grad_norm", "lr"}:
            assert left[key] == pytest.approx(right[key], rel=1e-4)


def test_the_checkpoint_of_the_best_evaluation_stays(tmp_path: Path) -> None:
    settings = LoopSettings(STEPS, RUN.model_copy(update={"evaluate_every": 4}), None, best="value")
    scores = {4: 1.0, 8: 3.0, 12: 2.0, 16: 3.0, 20: 2.5}
    run(tmp_path, settings=settings, values=lambda done: {"value": scores.get(done, 9.0)})
    assert Checkpoints(tmp_path, warn=print).steps() == [8, 18, 20]


def test_generators_of_the_process_are_in_the_checkpoint(tmp_path: Path) -> None:
    drawn: list[tuple[float, ...]] = []

    def drawing(model: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002
        return step(model, batch, shares)

    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    run(tmp_path / "straight", step=drawing)
    straight, drawn = drawn, []
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with pytest.raises(Paused):
        run(tmp_path / "cut", step=drawing, stop_after=11)
    run(tmp_path / "cut", step=drawing)
    assert drawn == straight


def test_what_is_logged_between_steps(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(tmp_path, events=events)
    assert events[0] == {"event": "started", "total": STEPS}
    for event in (event for event in events if event["event"] == "step"):
        assert event["seconds"] > 0 and 0 <= event["data_share"] <= 1 and event["memory_mb"] > 1
        assert "seconds_per_scene" not in event  # nothing said how many scenes a step has


def test_warnings_are_counted_over_a_restart_and_each_kind_is_told_once(tmp_path: Path) -> None:
    def odd(model: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
        output = step(model, batch, shares)
        return StepOutput(output.loss, output.values, [("odd", "batch is odd")])

    events: list[dict[str, Any]] = []
    with pytest.raises(Paused):
        run(tmp_path, step=odd, stop_after=7, events=events)
    run(tmp_path, step=odd, events=events)
    told = [event for event in events if event["event"] == "warning"]
    assert told == [{"event": "warning", "step": 5, "kind": "odd", "message": "batch is odd"}]
    counts = [(event["step"], event["warnings"]["odd"]) for event in events if event["event"] == "step"]
    assert counts == [(5, 5), (10, 10), (15, 15), (20, 20)]


def test_half_precision_needs_what_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"fp16, which needs a GPU.*run\.precision=bf16"):
        build_accelerator("fp16")
