"""The one training loop, on Accelerate, in one process or several.

A batch is a pure function of its step, so a resumed run equals a straight one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gcbench.errors import InputError, RunError
from gcbench.recipe.schema import Run
from gcbench.runs.provenance import process_peak_memory_mb
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.tally import Tally

Batch = TypeVar("Batch")
Report = Callable[[dict[str, Any]], None]
"""Gets the events of a job: each a dict with the key `event`."""

_PATIENCE = timedelta(hours=4)  # how long processes wait for the one that evaluates; a dead one is noticed at once


class Stop(Protocol):
    """Asked after every step whether to stop; inside `deferred()` signals are noted instead of raised."""

    def __call__(self) -> bool: ...

    def deferred(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class LoopSettings:
    """How long to train and how often to do what, in optimiser steps.

    Attributes:
        scenes_per_step: of one process; with it seconds per scene are logged too.
        round_steps: steps between evaluations where `run` does not say.
    """

    total_steps: int
    run: Run
    clip_norm: float | None
    scenes_per_step: int | None = None
    round_steps: int = 1

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations."""
        return self.run.evaluate_every or self.round_steps


@dataclass(frozen=True)
class StepOutput:
    """What one step gives back.

    Attributes:
        loss: [], to minimise.
        values: numbers for the log; a tensor is only read on steps that are logged.
        warnings: (kind, message) of what went on although something was odd; they are counted by kind.
    """

    loss: Tensor
    values: Mapping[str, float | Tensor]
    warnings: Sequence[tuple[str, str]] = ()


def build_accelerator(precision: str) -> Accelerator:
    """Accelerate on CUDA where there is one, else on the CPU; one of several processes if the launcher says so.

    Raises:
        InputError: half precision (fp16) without a GPU.
    """
    on_cpu = not torch.cuda.is_available()
    if on_cpu and precision == "fp16":
        raise InputError(
            "run.precision is fp16, which needs a GPU, and there is none.",
            "Use --set run.precision=bf16, or --set run.precision=no for float32.",
        )
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(
        mixed_precision=precision,
        cpu=on_cpu,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        kwargs_handlers=[
            # a degenerate scene leaves parameters without a gradient
            DistributedDataParallelKwargs(find_unused_parameters=True),
            *([InitProcessGroupKwargs(timeout=_PATIENCE)] if several else []),
        ],
    )


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far in MB: allocated on the GPU, or resident in this process where there is none."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else process_peak_memory_mb()


def train(
    model: nn.Module,
    optimizer: AdamW,
    scheduler: OneCycleLR,
    batches: Callable[[int], Iterable[Batch]],
    step: Callable[[nn.Module, Batch], StepOutput],
    settings: LoopSettings,
    checkpoints: Checkpoints,
    *,
    accelerator: Accelerator,
    report: Report,
    stop_requested: Callable[[], bool],
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
) -> nn.Module:
    """Train to `settings.total_steps`, going on from the last checkpoint where there is one.

    With several processes each one calls this with its share of every batch; the first one reports, evaluates and
    saves, and all stop together.

    Args:
        batches: from the first step to do (0-based) to the batches of that and all later steps.
        step: one forward pass.
        report: gets `{"event": "started"}` or `{"event": "resumed", "step"}`, then `{"event": "step", "step", "total",
            "lr", "grad_norm", "seconds", "data_share", "memory_mb", "warnings", ...}` every `log_every` steps (values
            are means over the processes, memory their largest, warnings the sums since the start),
            `{"event": "evaluation", "step", ...}` after each evaluation that gave values, and `{"event": "warning",
            "kind", "message"}` for the first warning of each kind.
        stop_requested: asked after every step; when true, a checkpoint is written and KeyboardInterrupt raised.
        evaluate: called before the first step, after every `evaluate_every` steps and after the last one.

    Returns:
        the trained model.

    Raises:
        RunError: the loss is not finite.
        KeyboardInterrupt: after a checkpoint has been written.
    """
    loop = _Loop(model, optimizer, scheduler, step, settings, checkpoints, accelerator, report)
    loop.run(batches, stop_requested, evaluate)
    return model


class _Stepper(nn.Module):
    """Forward pass and loss as one module: so DDP sees exactly what the loss depends on."""

    def __init__(self, model: nn.Module, step: Callable[[nn.Module, Any], StepOutput]) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batch: Any) -> StepOutput:
        return self.step(self.model, batch)


class _Clock:
    """Seconds since the last look, and how many of them went into waiting for data."""

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, done: int) -> None:
        self._since, self._done, self._waiting = time.perf_counter(), done, 0.0

    def next(self, iterator: Iterator[Batch]) -> Batch:
        started = time.perf_counter()
        batch = next(iterator)
        self._waiting += time.perf_counter() - started
        return batch

    def read(self, done: int) -> dict[str, float]:
        """Seconds per step and the share of them spent waiting for data."""
        passed = time.perf_counter() - self._since
        return {"seconds": passed / max(done - self._done, 1), "data_share": self._waiting / max(passed, 1e-9)}


class _Loop(Generic[Batch]):
    def __init__(
        self,
        model: nn.Module,
        optimizer: AdamW,
        scheduler: OneCycleLR,
        step: Callable[[nn.Module, Batch], StepOutput],
        settings: LoopSettings,
        checkpoints: Checkpoints,
        accelerator: Accelerator,
        report: Report,
    ) -> None:
        self.model, self.scheduler, self.settings, self.checkpoints = model, scheduler, settings, checkpoints
        self.accelerator, self.report = accelerator, report if accelerator.is_main_process else _say_nothing
        self.stepper, self.optimizer = accelerator.prepare(_Stepper(model, step), optimizer)
        self.tally = Tally()
        self.clock = _Clock()
        self.done = 0

    def run(
        self,
        batches: Callable[[int], Iterable[Batch]],
        stop_requested: Callable[[], bool],
        evaluate: Callable[[int], Mapping[str, float]] | None,
    ) -> None:
        """All steps that are left."""
        total, run = self.settings.total_steps, self.settings.run
        self._resume()
        if evaluate and not self.done:
            self._evaluate(evaluate)
        iterator = iter(batches(self.done)) if self.done < total else iter(())
        self.clock.reset(self.done)
        while self.done < total:
            output, norm, rate, stopping = self._step(self.clock.next(iterator), stop_requested)
            last = self.done == total
            if last or self.done % run.log_every == 0:
                self._log(output, {"lr": rate, "grad_norm": norm})
            if evaluate and (last or self.done % self.settings.evaluate_every == 0):
                self._evaluate(evaluate)
            if last or stopping or self.done % run.checkpoint_every == 0:
                self._save()
            if stopping and not last:
                raise KeyboardInterrupt
        self.accelerator.wait_for_everyone()

    def _step(self, batch: Batch, stop_requested: Callable[[], bool]) -> tuple[StepOutput, float, float, bool]:
        self.model.train()
        output: StepOutput = self.stepper(batch)
        stopping = self._agree(output.loss, stop_requested())
        self.tally.add(output.warnings)
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(output.loss)
        limit = float("inf") if self.settings.clip_norm is None else self.settings.clip_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        rate = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        self.done += 1
        return output, float(norm), rate, stopping

    def _agree(self, loss: Tensor, stop: bool) -> bool:
        """Whether any process was asked to stop; all of them raise if the loss of any is not finite."""
        finite = bool(torch.isfinite(loss.detach()))
        broken, stopping = not finite, stop
        if self.accelerator.num_processes > 1:
            flags = torch.tensor([float(broken), float(stop)], device=self.accelerator.device)
            broken, stopping = (flag > 0 for flag in self.accelerator.reduce(flags, "sum").tolist())
        if broken:
            value = loss.item() if not finite else "not finite in another process"
            raise RunError(
                f"The loss is {value} at step {self.done + 1}.",
                "Lower optimizer.lr, or set optimizer.clip_norm=1.0, and run the same command again.",
            )
        return stopping

    def _log(self, output: StepOutput, values: dict[str, float]) -> None:
        times = self.clock.read(self.done)
        if self.settings.scenes_per_step:
            times["seconds_per_scene"] = times["seconds"] / self.settings.scenes_per_step
        measured = {**times, **{name: float(value) for name, value in output.values.items()}}
        memory = peak_memory_mb(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            shared = torch.tensor(list(measured.values()), dtype=torch.float64, device=self.accelerator.device)
            means = self.accelerator.reduce(shared, "mean").tolist()
            measured = dict(zip(measured, means, strict=True))
            peaks = self.accelerator.gather(torch.tensor([memory], device=self.accelerator.device))
            memory = float(peaks.max())
        place = {"step": self.done, "total": self.settings.total_steps}
        for kind, message in self.tally.merge(self.accelerator):
            self.report({"event": "warning", "step": self.done, "kind": kind, "message": message})
        counts = {"memory_mb": memory, "warnings": dict(self.tally.counts)}
        self.report({"event": "step", **place, **values, **measured, **counts})
        self.clock.reset(self.done)

    def _evaluate(self, evaluate: Callable[[int], Mapping[str, float]]) -> None:
        if self.accelerator.is_main_process:
            values = evaluate(self.done)
            if values:
                self.report({"event": "evaluation", "step": self.done, "total": self.settings.total_steps, **values})
        self.clock.reset(self.done)

    def _save(self) -> None:
        self.tally.merge(self.accelerator, keep_news=True)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "generator": torch.get_rng_state(),
                "warnings": self.tally.counts,
            }
            self.checkpoints.save(self.done, state)

    def _resume(self) -> None:
        with self.accelerator.main_process_first():  # it removes what cannot be read
            state = self.checkpoints.load_last()
        if state is None:
            self.report({"event": "started", "total": self.settings.total_steps})
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])
        self.tally = Tally(state.get("warnings", {}))
        self.done = int(state["step"])
        self.report({"event": "resumed", "step": self.done, "total": self.settings.total_steps})


def _say_nothing(event: dict[str, Any]) -> None:
    """The report of every process but the first."""
