"""The loop: learns, resumes to the bit, stops on request, and survives a broken checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gcbench.errors import InputError, RunError
from gcbench.recipe.schema import Optimizer, Run, Schedule
from gcbench.training.checkpoint import Checkpoints, save_weights
from gcbench.training.loop import LoopSettings, StepOutput, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

STEPS = 20
OPTIMIZER = Optimizer(lr=0.05, betas=(0.9, 0.95), weight_decay=0.05, clip_norm=None)
SCHEDULE = Schedule(
    epochs=None, rounds=1, steps=STEPS, batch_size=8, warmup=0.25, div_factor=10.0, final_div_factor=1000.0
)
RUN = Run(precision="no", workers=0, log_every=5, checkpoint_every=6, evaluate_every=10)


def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(first, STEPS):
        generator = torch.Generator().manual_seed(number)
        x = torch.randn(8, 3, generator=generator)
        yield x, x.sum(dim=1, keepdim=True)


def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput:
    loss = nn.functional.mse_loss(model(batch[0]), batch[1])
    return StepOutput(loss, {"loss": float(loss.detach())})


def run(
    folder: Path,
    *,
    stop_after: int | None = None,
    step: Callable[[nn.Module, tuple[Tensor, Tensor]], StepOutput] = step,
    events: list[dict[str, Any]] | None = None,
) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = build_optimizer(model.parameters(), OPTIMIZER)
    count = iter(range(1, STEPS + 1))
    return train(
        model,
        optimizer,
        build_scheduler(optimizer, SCHEDULE, STEPS),
        batches,
        step,
        LoopSettings(STEPS, RUN, None),
        Checkpoints(folder, warn=lambda message: (events if events is not None else []).append({"event": message})),
        accelerator=build_accelerator("no"),
        report=(events if events is not None else []).append,
        stop_requested=lambda: next(count) == stop_after,
        evaluate=lambda done: {"value": float(done)},
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
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=stop_after)
    events: list[dict[str, Any]] = []
    assert same(straight, run(tmp_path / "cut", events=events))
    assert events[0] == {"event": "resumed", "step": stop_after, "total": STEPS}


def test_a_truncated_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=14)
    last = sorted((tmp_path / "cut").glob("*.pt"))[-1]
    last.write_bytes(last.read_bytes()[:-100])
    events: list[dict[str, Any]] = []
    assert same(straight, run(tmp_path / "cut", events=events))
    assert "cannot be read" in events[0]["event"]
    assert events[1]["step"] == 12


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    def broken(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput:
        return StepOutput(model(batch[0]).sum() * float("nan"), {})

    with pytest.raises(RunError, match=r"step 1.*clip_norm"):
        run(tmp_path, step=broken)


def test_what_is_logged_between_steps(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(tmp_path, events=events)
    assert events[0] == {"event": "started", "total": STEPS}
    for event in (event for event in events if event["event"] == "step"):
        assert event["seconds"] > 0 and 0 <= event["data_share"] <= 1 and event["memory_mb"] > 1
        assert "seconds_per_scene" not in event  # nothing said how many scenes a step has


def test_warnings_are_counted_over_a_restart_and_each_kind_is_told_once(tmp_path: Path) -> None:
    def odd(model: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput:
        output = step(model, batch)
        return StepOutput(output.loss, output.values, [("odd", "batch is odd")])

    events: list[dict[str, Any]] = []
    with pytest.raises(KeyboardInterrupt):
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


def test_checkpoints_keep_the_last_two(tmp_path: Path) -> None:
    run(tmp_path)
    assert Checkpoints(tmp_path, warn=print).steps() == [18, 20]


def test_weights_round_trip(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = {"a": torch.arange(6.0).reshape(2, 3).t(), "b": torch.tensor([1, 2])}
    save_weights(tmp_path / "w.safetensors", weights, {"kind": "test"})
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
