"""The one training loop, on Accelerate, in one process or several.

A batch is a pure function of its step, and the generators of all processes are in the checkpoint, so a resumed run
equals a straight one to the bit. What the model learns from a step does not depend on how many processes share its
batch, as long as batch norm is synchronised or frozen; nor then on how many parts each of them cuts its share into,
but for terms that rank points instead of averaging over them (Lovasz), which see one part at a time.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gcbench.errors import InputError, Paused, RunError
from gcbench.recipe.schema import Run
from gcbench.runs.provenance import process_peak_memory_mb
from gcbench.training.batchnorm import synchronise, synchronised
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.faults import KIND, Buffers, save_batch, scene_names
from gcbench.training.generators import generator_states, set_generator_states
from gcbench.training.tally import Tally
from gcbench.training.trackers import Trackers

Batch = TypeVar("Batch")
Shares = tuple[float, ...]
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
        best: the evaluation value whose highest so far has its checkpoint kept; None keeps none.
        faults: where batches are kept whose loss or gradient was not finite; None keeps none.
        trackers: where Accelerate's trackers write; None uses none.
    """

    total_steps: int
    run: Run
    clip_norm: float | None
    scenes_per_step: int | None = None
    round_steps: int = 1
    best: str | None = None
    faults: Path | None = None
    trackers: Trackers | None = None

    @property
    def evaluate_every(self) -> int:
        """Steps between evaluations."""
        return self.run.evaluate_every or self.round_steps


@dataclass(frozen=True)
class StepOutput:
    """What one step gives back.

    Attributes:
        loss: [], to minimise.
        values: numbers for the log, means over the step's parts; a tensor is only read on steps that are logged.
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
            "Use --set run.precision=bf16, or --set 'run.precision=\"no\"' for float32.",
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
    step: Callable[[nn.Module, Batch, Shares], StepOutput],
    settings: LoopSettings,
    checkpoints: Checkpoints,
    *,
    accelerator: Accelerator,
    report: Report,
    stop_requested: Callable[[], bool],
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    weigh: Callable[[Batch], Sequence[float]] | None = None,
) -> nn.Module:
    """Train to `settings.total_steps`, going on from the last checkpoint where there is one.

    With several processes each one calls this with its share of every batch; the first one reports and saves, all
    evaluate, and all stop together. A step whose loss or gradient is not finite in any process is skipped in all:
    nothing of it stays in weights, statistics or optimiser, and the schedule goes on.

    Args:
        batches: from the first step to do (0-based) to the batches of that and all later steps: for each step
            `run.accumulate` parts of this process's share, in order.
        step: one forward pass, of the model, a part and its shares.
        report: gets `{"event": "started"}` or `{"event": "resumed", "step"}`, then `{"event": "step", "step", "total",
            "lr", "grad_norm", "seconds", "data_share", "memory_mb", "warnings", ...}` every `log_every` steps (values
            are means over the processes, memory their largest, warnings the sums since the start),
            `{"event": "evaluation", "step", ...}` after each evaluation that gave values, and `{"event": "warning",
            "kind", "message"}` for the first warning of each kind.
        stop_requested: asked after every step; when true, a checkpoint is written and `Paused` raised.
        evaluate: called in every process before the first step, after every `evaluate_every` steps and after the last
            one; what it returns in the first process counts.
        weigh: the numbers of things in a part that terms of its loss are means over, such as labelled points. The
            step's shares are these numbers over their mean in all parts of all processes: a term that is multiplied
            by its share adds up to the mean over the whole batch. None: parts count the same, and shares are empty.

    Returns:
        the trained model.

    Raises:
        RunError: `run.skip_limit` steps in a row were not finite; their last batch is kept in `settings.faults`.
        Paused: after a checkpoint has been written.
    """
    loop = _Loop(model, optimizer, scheduler, step, settings, checkpoints, accelerator, report, weigh)
    loop.run(batches, stop_requested, evaluate)
    return model


class _Stepper(nn.Module):
    """Forward pass and loss as one module: so DDP sees exactly what the loss depends on."""

    def __init__(self, model: nn.Module, step: Callable[[nn.Module, Any, Shares], StepOutput]) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batch: Any, shares: Shares) -> StepOutput:
        with synchronised():
            return self.step(self.model, batch, shares)


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
        step: Callable[[nn.Module, Batch, Shares], StepOutput],
        settings: LoopSettings,
        checkpoints: Checkpoints,
        accelerator: Accelerator,
        report: Report,
        weigh: Callable[[Batch], Sequence[float]] | None,
    ) -> None:
        if accelerator.num_processes > 1 and settings.run.batchnorm == "synchronised":
            synchronise(model)
        self.model, self.scheduler, self.settings, self.checkpoints = model, scheduler, settings, checkpoints
        self.accelerator, self.report = accelerator, report if accelerator.is_main_process else _say_nothing
        self.weigh = weigh
        self.stepper, self.optimizer = accelerator.prepare(_Stepper(model, step), optimizer)
        self.buffers = Buffers(model)
        self.tally = Tally()
        self.clock = _Clock()
        self.done = 0
        self.skipped = 0  # in a row
        self.best: tuple[int, float] | None = None  # step and value

    def run(
        self,
        batches: Callable[[int], Iterable[Batch]],
        stop_requested: Callable[[], bool],
        evaluate: Callable[[int], Mapping[str, float]] | None,
    ) -> None:
        """All steps that are left."""
        total, run = self.settings.total_steps, self.settings.run
        self._resume()
        if self.settings.trackers is not None:
            self.settings.trackers.start(self.accelerator, self.done)
        if evaluate and not self.done:
            self._evaluate(evaluate)
        iterator = iter(batches(self.done)) if self.done < total else iter(())
        self.clock.reset(self.done)
        while self.done < total:
            parts = [self.clock.next(iterator) for _ in range(run.accumulate)]
            output, values, stopping = self._step(parts, stop_requested)
            last = self.done == total
            if last or self.done % run.log_every == 0:
                self._log(output, values)
            better = False
            if evaluate and (last or self.done % self.settings.evaluate_every == 0):
                better = self._evaluate(evaluate)
            if last or stopping or better or self.done % run.checkpoint_every == 0:
                self._save()
            if stopping and not last:
                raise Paused
        self.accelerator.wait_for_everyone()

    def _step(
        self, parts: Sequence[Batch], stop_requested: Callable[[], bool]
    ) -> tuple[Sequence[StepOutput], dict[str, float], bool]:
        self.model.train()
        self.buffers.remember()
        self.optimizer.zero_grad(set_to_none=True)
        outputs: list[StepOutput] = []
        for part, shares in zip(parts, self._shares(parts), strict=True):
            last = len(outputs) == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.stepper):
                output: StepOutput = self.stepper(part, shares)
                self.accelerator.backward(output.loss / len(parts))
            self.tally.add(output.warnings)
            outputs.append(output)
        limit = float("inf") if self.settings.clip_norm is None else self.settings.clip_norm
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        losses = torch.stack([output.loss.detach().float() for output in outputs])
        broken, stopping = self._agree(not bool(torch.isfinite(losses).all()), stop_requested())
        rate = float(self.scheduler.get_last_lr()[0])
        if broken or not math.isfinite(norm):
            self._skip(parts, broken, losses.tolist(), norm)
        else:
            self.optimizer.step()
            self.skipped = 0
        self.scheduler.step()
        self.done += 1
        return outputs, {"lr": rate, "grad_norm": norm}, stopping

    def _shares(self, parts: Sequence[Batch]) -> Sequence[Shares]:
        """Each part's counts over their mean in all parts of all processes."""
        if self.weigh is None:
            return [()] * len(parts)
        counts = torch.tensor([[float(count) for count in self.weigh(part)] for part in parts], dtype=torch.float64)
        means = counts.mean(dim=0)
        if self.accelerator.num_processes > 1:
            # float32 on the way, which all backends can add up; counts below 2^24 stay exact
            means = self.accelerator.reduce(means.float().to(self.accelerator.device), "mean").cpu().double()
        return [tuple(row) for row in (counts / means.clamp(min=1e-12)).tolist()]

    def _skip(self, parts: Sequence[Batch], broken: bool, losses: Sequence[float], norm: float) -> None:
        """Leave no trace of a step that is not finite, and stop after too many in a row."""
        self.buffers.restore()
        scaler, run = self.accelerator.scaler, self.settings.run
        if scaler is not None:
            scaler.update()
        overflow = scaler is not None and not broken and scaler.get_scale() >= 1.0  # half precision finds its scale
        if overflow:
            return
        self.skipped += 1
        what = f"the loss is {', '.join(f'{loss:.3g}' for loss in losses)}" if broken else f"the gradient is {norm:.3g}"
        scenes = ", ".join(name for part in parts for name in scene_names(part))
        message = f"step {self.done + 1} was skipped: {what}{f' ({scenes})' if scenes else ''}"
        if self.accelerator.is_main_process:
            self.tally.add([(KIND, message)])
        if self.skipped < run.skip_limit:
            return
        kept = self._keep(parts)
        raise RunError(
            f"The loss or the gradient was not finite in {self.skipped} steps in a row; {message}.",
            (f"The batch is in {kept}. " if kept else "")
            + "Lower optimizer.lr, or set optimizer.clip_norm=1.0; the last checkpoint is from before.",
        )

    def _keep(self, parts: Sequence[Batch]) -> Path | None:
        """Write this process's share of the batch."""
        folder, rank = self.settings.faults, self.accelerator.process_index
        if folder is None:
            return None
        path = folder / f"step-{self.done + 1:09d}-process-{rank}.safetensors"
        save_batch(path, list(parts), {"step": self.done + 1, "process": rank})
        self.accelerator.wait_for_everyone()
        return path

    def _agree(self, broken: bool, stop: bool) -> tuple[bool, bool]:
        """Whether the loss of any process is not finite, and whether any was asked to stop."""
        if self.accelerator.num_processes == 1:
            return broken, stop
        flags = torch.tensor([float(broken), float(stop)], device=self.accelerator.device)
        first, second = (flag > 0 for flag in self.accelerator.reduce(flags, "sum").tolist())
        return first, second

    def _log(self, outputs: Sequence[StepOutput], values: dict[str, float]) -> None:
        times = self.clock.read(self.done)
        if self.settings.scenes_per_step:
            times["seconds_per_scene"] = times["seconds"] / self.settings.scenes_per_step
        names = outputs[0].values
        means = {name: sum(float(output.values[name]) for output in outputs) / len(outputs) for name in names}
        measured = {**times, **means}
        memory = peak_memory_mb(self.accelerator.device)
        if self.accelerator.num_processes > 1:
            shared = torch.tensor(list(measured.values()), dtype=torch.float64, device=self.accelerator.device)
            measured = dict(zip(measured, self.accelerator.reduce(shared, "mean").tolist(), strict=True))
            peaks = self.accelerator.gather(torch.tensor([memory], device=self.accelerator.device))
            memory = float(peaks.max())
        place = {"step": self.done, "total": self.settings.total_steps}
        for kind, message in self.tally.merge(self.accelerator):
            self.report({"event": "warning", "step": self.done, "kind": kind, "message": message})
        counts = {"memory_mb": memory, "warnings": dict(self.tally.counts)}
        self.report({"event": "step", **place, **values, **measured, **counts})
        self._track("train", {**values, **measured, "memory_mb": memory})
        self.clock.reset(self.done)

    def _evaluate(self, evaluate: Callable[[int], Mapping[str, float]]) -> bool:
        """Evaluate; whether it is the best so far, which all processes agree on."""
        values, better = evaluate(self.done), False
        if self.accelerator.is_main_process and values:
            self.report({"event": "evaluation", "step": self.done, "total": self.settings.total_steps, **values})
            self._track("validation", values)
            name = self.settings.best
            if name is not None and self.done and (self.best is None or values[name] > self.best[1]):
                self.best, better = (self.done, float(values[name])), True
        better = self._agree(better, False)[0]
        self.clock.reset(self.done)
        return better

    def _track(self, group: str, values: Mapping[str, float]) -> None:
        if self.settings.trackers is not None:
            self.accelerator.log({f"{group}/{name}": value for name, value in values.items()}, step=self.done)

    def _save(self) -> None:
        self.tally.merge(self.accelerator, keep_news=True)
        generators = [generator_states()]
        if self.accelerator.num_processes > 1:
            generators = gather_object(generators)
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "generators": generators,
                "warnings": self.tally.counts,
                "skipped": self.skipped,
                "best": self.best,
            }
            self.checkpoints.save(self.done, state, best=self.best[0] if self.best else None)

    def _resume(self) -> None:
        with self.accelerator.main_process_first():  # it removes what is damaged
            state = self.checkpoints.load_last()
        self._check_same(-1 if state is None else int(state["step"]))
        if state is None:
            self.report({"event": "started", "total": self.settings.total_steps})
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.process_index < len(state["generators"]):
            set_generator_states(state["generators"][self.accelerator.process_index])
        self.tally = Tally(state["warnings"])
        self.done, self.skipped, self.best = int(state["step"]), int(state["skipped"]), state["best"]
        self.report({"event": "resumed", "step": self.done, "total": self.settings.total_steps})

    def _check_same(self, step: int) -> None:
        """All processes must go on from the same checkpoint."""
        if self.accelerator.num_processes == 1:
            return
        found = gather_object([step])
        if len(set(found)) > 1:
            named = ", ".join("none" if other < 0 else f"step {other}" for other in found)
            raise RunError(
                f"The processes see different checkpoints in {self.checkpoints.folder}: {named}.",
                "Give a run folder (--out) on storage that all nodes share.",
            )


def _say_nothing(event: dict[str, Any]) -> None:
    """The report of every process but the first."""
