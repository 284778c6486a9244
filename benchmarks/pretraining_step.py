"""Where a pre-training step spends its time, part by part, forward and backward.

    python benchmarks/pretraining_step.py [--size demo] [--data PREPARED] [--threads 1] [--steps 20] [--json FILE]

The real job runs (`gcbench.protocols.pretrain`); a clock is hooked to its modules. A part's backward time runs from the
moment its outputs have their gradients to the moment the part before it has them. Medians over the steps after the
warm-up. On a GPU every change of part waits for the device, which costs a little of the overlap.

Sizes: `demo` is the preset tiny; `study` the 48 x 48 x 32 voxels, 80 x 60 pixels and 0.9 M parameters of the first
feasibility study; `paper` the recipe as it is, but for the teacher, which `--set` may choose. Without --data, synthetic
rooms are made. `--set section.key=value` overrides the recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from gcbench.data.prepare import prepare_scannet
from gcbench.data.storage import PreparedDataset
from gcbench.data.synthetic_rooms import generate_rooms
from gcbench.protocols import pretrain as protocol
from gcbench.protocols import pretrain_objective as objective
from gcbench.protocols.jobs import JobRecipe, PretrainJob
from gcbench.recipe.loader import LoadedRecipe, load_recipe
from gcbench.recipe.schema import PretrainRecipe
from gcbench.runs.store import Run

PARTS = (
    "data", "encoder", "dense volume", "heads", "splatting", "projection", "teacher", "losses", "optimiser", "other",
)  # fmt: skip
MODULES = {"encoder": "encoder", "volume": "dense volume", "heads": "heads"}  # of the pre-trainer
METHODS = {"render": "splatting", "feature_maps": "projection"}
PAPER_SCENE = {"seconds": 0.255, "peak_memory_mb": 5296}  # Table 6, opacity threshold 0.3

_OFFLINE_TEACHER = ("teacher.name=classical", "teacher.model=null", "teacher.revision=null")
SIZES: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "demo": ("tiny", ()),
    "study": (
        "tiny",
        (
            "data.grid_size=0.02",
            "volume.grid=[48,48,32]",
            "encoder.channels=[16,32,48,64,48,32,32,32]",
            "volume.dense_channels=[32]",
            "gaussians.hidden=32",
            "optimizer.lr=0.002",
        ),
    ),
    "paper": (None, (*_OFFLINE_TEACHER, "schedule.batch_size=1", "run.workers=0")),
}


class Clock:
    """Adds up seconds by (part, backward or not); one part runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.part, self.backward = "other", False
        self.steps: list[Counter[tuple[str, bool]]] = []
        self._spent: Counter[tuple[str, bool]] = Counter()
        self._since = time.perf_counter()

    def switch(self, part: str, backward: bool | None = None) -> str:
        """From now on time belongs to `part`; returns the part so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._spent[self.part, self.backward] += now - self._since  # type: ignore[assignment]
        self._since, before, self.part = now, self.part, part
        if backward is not None:
            self.backward = backward
        return before

    def end_step(self) -> None:
        """The step is over."""
        self.switch("other", False)
        self.steps.append(self._spent)
        self._spent = Counter()

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, its time and that of its backward pass on `part`."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            before = self.switch(part)
            result = function(*arguments, **keywords)
            self.watch(result, part)
            self.switch(before)
            return result

        return call

    def watch(self, outputs: Any, part: str) -> None:
        """As soon as an output has its gradient, time belongs to `part`."""
        for tensor in _tensors(outputs):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self.switch(part) and None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


class Measured(Exception):  # noqa: N818
    """The steps are done; leaves the job before it evaluates and exports."""


def measured_training(clock: list[Clock], warm_up: int, steps: int) -> Callable[..., nn.Module]:
    """`gcbench.training.loop.train`, on the clock; the clock is put into the list."""
    train = protocol.train

    def run(model: Any, optimizer: Any, scheduler: Any, batches: Any, step: Any, *rest: Any, **keywords: Any) -> Any:
        accelerator = keywords["accelerator"]
        watch = Clock(accelerator.device)
        clock.append(watch)
        _hook_model(watch, model)
        _hook_step(watch, step.__self__)
        optimizer.register_step_pre_hook(lambda *_: watch.switch("optimiser") and None)
        optimizer.register_step_post_hook(lambda *_: watch.switch("other") and None)
        backward = accelerator.backward

        def timed_backward(loss: Tensor) -> None:
            watch.switch("losses", True)
            backward(loss)
            watch.switch("optimiser", False)  # the norm of the gradients, clipping

        accelerator.backward = timed_backward
        keywords["evaluate"] = None
        train(model, optimizer, scheduler, lambda first: _timed(watch, batches(first)), step, *rest, **keywords)
        raise AssertionError("the job has too few steps")

    def _timed(watch: Clock, batches: Iterable[Any]) -> Iterator[Any]:
        iterator = iter(batches)
        for done in range(warm_up + steps + 1):
            watch.end_step()
            if done == warm_up and watch.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            if done == warm_up + steps:
                raise Measured
            watch.switch("data")
            batch = next(iterator)
            watch.switch("other")
            yield batch

    return run


def _hook_model(watch: Clock, model: nn.Module) -> None:
    for name, part in MODULES.items():
        module = getattr(model, name)
        module.forward = watch.timed(module.forward, part)
    for name, part in METHODS.items():
        setattr(model, name, watch.timed(getattr(model, name), part))


def _hook_step(watch: Clock, job: Any) -> None:
    job.objective.teacher_maps = watch.timed(job.objective.teacher_maps, "teacher")
    objective.pretraining_loss = watch.timed(objective.pretraining_loss, "losses")


def measure(loaded: LoadedRecipe, data: Path, warm_up: int, steps: int) -> Clock:
    """Run the job for so many steps; returns the clock, without the warm-up."""
    clocks: list[Clock] = []
    train, loss = protocol.train, objective.pretraining_loss
    protocol.train = measured_training(clocks, warm_up, steps)
    with tempfile.TemporaryDirectory() as folder:
        key = PreparedDataset.open(data).fingerprint
        job = PretrainJob(name="benchmark", recipe=JobRecipe.of(loaded), data=data, data_key=key, seed=0)
        try:
            protocol.pretrain(job, Run(Path(folder), kind=job.kind, name=job.name, key=job.key), _ignore, _NeverStop())
        except Measured:
            pass
        finally:
            protocol.train, objective.pretraining_loss = train, loss
    clocks[0].steps = clocks[0].steps[warm_up + 1 :]
    return clocks[0]


def _ignore(event: dict[str, Any]) -> None:
    pass


class _NeverStop:
    def __call__(self) -> bool:
        return False

    def deferred(self) -> AbstractContextManager[None]:
        return nullcontext()


def prepared_rooms(folder: Path, size: str) -> Path:
    """A prepared set of three synthetic rooms, with frames as large as the size needs."""
    frames, frame_size = (12, (640, 480)) if size == "paper" else (30, (160, 120))
    generate_rooms(
        folder / "raw", layout="scannet", scenes=3, val=0, seed=0, frames=frames, frame_size=frame_size, workers=1
    )
    prepare_scannet(folder / "raw", folder / "prepared", workers=1)
    return folder / "prepared"


def load(size: str, data: Path, overrides: Sequence[str]) -> LoadedRecipe:
    """The recipe of a size, on whatever splits the data have."""
    preset, own = SIZES[size]
    splits = [name for name, scenes in PreparedDataset.open(data).splits.items() if scenes]
    return load_recipe(
        "pretrain/gaussiancross", preset=preset, overrides=(*own, f"data.splits=[{','.join(splits)}]", *overrides)
    )


def summary(clock: Clock, loaded: LoadedRecipe, size: str) -> dict[str, Any]:
    """Median milliseconds of every part, forward and backward, and what is measured for Table 6."""
    assert isinstance(loaded.recipe, PretrainRecipe)
    batch = loaded.recipe.schedule.batch_size
    on_gpu = clock.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else getrusage(RUSAGE_SELF).ru_maxrss / 2**10
    parts = {
        part: [1e3 * statistics.median(step[part, backward] for step in clock.steps) for backward in (False, True)]
        for part in PARTS
    }
    seconds = [sum(step.values()) for step in clock.steps]
    return {
        "size": size,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "scenes_per_step": batch,
        "steps": len(seconds),
        "milliseconds": {part: {"forward": ahead, "backward": back} for part, (ahead, back) in parts.items()},
        "step_milliseconds": 1e3 * statistics.median(seconds),
        "fastest_step_milliseconds": 1e3 * min(seconds),
        "seconds_per_scene": statistics.median(seconds) / batch,
        "peak_memory_mb": memory,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The summary as a table."""
    whole = sum(sum(times.values()) for times in result["milliseconds"].values())
    table = Table(title=f"{result['size']}: one pre-training step, {result['device']}, {result['threads']} thread(s)")
    table.add_column("part")
    for name in ("forward ms", "backward ms", "share"):
        table.add_column(name, justify="right")
    for part, times in result["milliseconds"].items():
        share = f"{sum(times.values()) / whole:.0%}"
        table.add_row(part, f"{times['forward']:.1f}", f"{times['backward']:.1f}", share)
    console.print(table)
    console.print(
        f"Step: {result['step_milliseconds']:.0f} ms (median of {result['steps']}), "
        f"fastest {result['fastest_step_milliseconds']:.0f} ms.\n"
        f"A scene: {result['seconds_per_scene']:.3f} s, peak memory {result['peak_memory_mb']:.0f} MB"
        f" (the paper's Table 6, on its GPU: {PAPER_SCENE['seconds']} s, {PAPER_SCENE['peak_memory_mb']} MB).",
        highlight=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="paper" if torch.cuda.is_available() else "demo")
    parser.add_argument("--data", type=Path, help="a prepared dataset with frames; default: synthetic rooms")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or prepared_rooms(Path(folder), options.size)
        for threads in options.threads:
            torch.set_num_threads(threads)
            loaded = load(options.size, data, options.overrides)
            clock = measure(loaded, data, options.warm_up, options.steps)
            results.append(summary(clock, loaded, options.size))
            show(results[-1], Console())
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
