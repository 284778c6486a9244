"""The one training loop, on Accelerate.

A batch is a pure function of its step, so a resumed run equals a straight one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from gcbench.errors import RunError
from gcbench.recipe.schema import Run
from gcbench.training.checkpoint import Checkpoints

Batch = TypeVar("Batch")
Report = Callable[[dict[str, Any]], None]
"""Gets the events of a job: each a dict with the key `event`."""


class Stop(Protocol):
    """Asked after every step whether to stop; inside `deferred()` signals are noted instead of raised."""

    def __call__(self) -> bool: ...

    def deferred(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class LoopSettings:
    """How long to train and how often to do what, in optimiser steps."""

    total_steps: int
    run: Run
    clip_norm: float | None


@dataclass(frozen=True)
class StepOutput:
    """What one step gives back: the loss to minimise, and numbers for the log."""

    loss: Tensor
    values: Mapping[str, float]


def build_accelerator(precision: str) -> Accelerator:
    """Accelerate on CUDA where there is one, else on the CPU, which always computes in float32."""
    on_cpu = not torch.cuda.is_available()
    return Accelerator(
        mixed_precision="no" if on_cpu else precision,
        cpu=on_cpu,
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )


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

    Args:
        batches: from the first step to do (0-based) to the batches of that and all later steps.
        step: one forward pass.
        report: gets `{"event": "step", "step", "total", "lr", "grad_norm", "seconds", ...}` every `log_every` steps,
            and `{"event": "evaluation", "step", ...}` after each evaluation.
        stop_requested: asked after every step; when true, a checkpoint is written and KeyboardInterrupt raised.
        evaluate: called after every `evaluate_every` steps and after the last one.

    Returns:
        the trained model, unwrapped.

    Raises:
        RunError: the loss is not finite.
        KeyboardInterrupt: after a checkpoint has been written.
    """
    model, optimizer = accelerator.prepare(model, optimizer)
    done = _resume(model, optimizer, scheduler, checkpoints, accelerator)
    if done:
        report({"event": "resumed", "step": done, "total": settings.total_steps})
    started, logged = time.perf_counter(), done
    iterator = iter(batches(done)) if done < settings.total_steps else iter(())
    while done < settings.total_steps:
        batch = next(iterator)
        model.train()
        with accelerator.autocast():
            output = step(model, batch)
        rate = scheduler.get_last_lr()[0]
        norm = _update(output.loss, model, optimizer, scheduler, settings.clip_norm, accelerator, done)
        done += 1
        last, stopping = done == settings.total_steps, stop_requested()
        if last or done % settings.run.log_every == 0:
            seconds = (time.perf_counter() - started) / max(done - logged, 1)
            values = {"lr": rate, "grad_norm": norm, "seconds": seconds, **output.values}
            report({"event": "step", "step": done, "total": settings.total_steps, **values})
            started, logged = time.perf_counter(), done
        if evaluate and (last or done % settings.run.evaluate_every == 0):
            report({"event": "evaluation", "step": done, "total": settings.total_steps, **evaluate(done)})
            started, logged = time.perf_counter(), done
        if last or stopping or done % settings.run.checkpoint_every == 0:
            checkpoints.save(done, _state(model, optimizer, scheduler, accelerator))
        if stopping and not last:
            raise KeyboardInterrupt
    unwrapped = accelerator.unwrap_model(model)
    assert isinstance(unwrapped, nn.Module)
    return unwrapped


def _update(
    loss: Tensor,
    model: nn.Module,
    optimizer: AdamW,
    scheduler: OneCycleLR,
    clip_norm: float | None,
    accelerator: Accelerator,
    done: int,
) -> float:
    if not bool(torch.isfinite(loss)):
        raise RunError(
            f"The loss is {loss.item()} at step {done + 1}.",
            "Lower optimizer.lr, or set optimizer.clip_norm=1.0, and run the same command again.",
        )
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm if clip_norm is not None else float("inf"))
    optimizer.step()
    scheduler.step()
    return float(norm)


def _state(model: nn.Module, optimizer: AdamW, scheduler: OneCycleLR, accelerator: Accelerator) -> dict[str, Any]:
    return {
        "model": accelerator.unwrap_model(model).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
        "generator": torch.get_rng_state(),
    }


def _resume(
    model: nn.Module, optimizer: AdamW, scheduler: OneCycleLR, checkpoints: Checkpoints, accelerator: Accelerator
) -> int:
    state = checkpoints.load_last()
    if state is None:
        return 0
    accelerator.unwrap_model(model).load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["generator"])
    return int(state["step"])
