"""Kill a pre-training at random moments, resume it, and compare its weights with those of a run that was left alone.

    python benchmarks/kill_trials.py [--trials 20] [--steps 30] [--folder FOLDER] [--seed 0]

Every trial kills (SIGKILL) the command, one of its worker processes or all of them, some time after the first
checkpoint, up to three times; half of the trials train in two processes. Ends with 1 if any weight differs in any bit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from gcbench.data.prepare import prepare_scannet
from gcbench.data.synthetic_rooms import generate_rooms

SMALL = (
    *("data.grid_size=0.08", "data.views=2", "data.view_width=40", "data.view_height=30", "encoder.base_channels=8"),
    *("encoder.channels=[8,16,16,8]", "encoder.layers=[1,1,1,1]", "volume.grid=[16,16,8]", "schedule.batch_size=2"),
    *("run.log_every=1", "run.checkpoint_every=4", "run.evaluate_every=1000"),
)


def start(data: Path, out: Path, steps: int, processes: int) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    words = ["pretrain", "--preset", "tiny", "--data", str(data), "--out", str(out), "--tracker", "none"]
    sets = [part for text in (*SMALL, f"schedule.steps={steps}") for part in ("--set", text)]
    command = [sys.executable, "-m", "gcbench", *words, "--cpu-processes", str(processes), *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=environment
    )


def finish(data: Path, out: Path, steps: int, processes: int) -> str:
    """Run to the end; a digest of the last checkpoint's weights and of the encoder."""
    for _ in range(60):
        process = start(data, out, steps, processes)
        _, message = process.communicate()
        if process.returncode == 0:
            return digest(out)
        if b"is being worked on" not in message:  # by what the kill has left, for a moment
            raise SystemExit(f"{out}: exit code {process.returncode}\n{message.decode()}")
        time.sleep(1.0)
    raise SystemExit(f"{out} stays locked")


def digest(out: Path) -> str:
    """Of all that the last checkpoint holds (weights, statistics, optimiser, schedule, generators), and the encoder."""
    state = torch.load(max((out / "checkpoints").glob("step-*.pt")), weights_only=True)
    hashed = hashlib.sha256((out / "encoder" / "model.safetensors").read_bytes())
    update(hashed, state)
    return hashed.hexdigest()


def update(hashed: Any, value: Any) -> None:
    """Add a value to a hash."""
    if isinstance(value, torch.Tensor):
        hashed.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in value:
            hashed.update(repr(key).encode())
            update(hashed, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            update(hashed, item)
    else:
        hashed.update(repr(value).encode())


def kill_once(data: Path, out: Path, steps: int, processes: int, rng: random.Random) -> str | None:
    """Start, wait for a checkpoint and a random time, and kill something; what was killed, None if it was too late."""
    process = start(data, out, steps, processes)
    before = set((out / "checkpoints").glob("step-*.pt"))
    while process.poll() is None and set((out / "checkpoints").glob("step-*.pt")) <= before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0.0, 1.0))
    workers: list[int] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = [child.pid for child in psutil.Process(process.pid).children()]
    if process.poll() is not None or not workers:
        process.communicate()
        return None
    name, victims = rng.choice(
        [("command", [process.pid]), ("worker", [rng.choice(workers)]), ("all", [process.pid, *workers])]
    )
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    process.communicate()
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-trials-"))
    generate_rooms(folder / "raw", layout="scannet", scenes=4, val=1, seed=0, frames=12, frame_size=(80, 60))
    data = prepare_scannet(folder / "raw", folder / "prepared").root
    rng, console = random.Random(options.seed), Console()
    wanted = {n: finish(data, folder / f"straight{n}", options.steps, n) for n in (1, 2)}
    table = Table("trial", "processes", "killed", "weights", title=f"{options.steps} steps, seed {options.seed}")
    wrong = 0
    for trial in range(options.trials):
        processes, out = 1 + trial % 2, folder / f"trial{trial}"
        killed = [kill_once(data, out, options.steps, processes, rng) for _ in range(rng.randint(1, 3))]
        equal = finish(data, out, options.steps, processes) == wanted[processes]
        wrong += not equal
        table.add_row(
            str(trial), str(processes), ", ".join(filter(None, killed)) or "none", "equal" if equal else "DIFFER"
        )
    console.print(table)
    raise SystemExit(int(bool(wrong)))


if __name__ == "__main__":
    main()
