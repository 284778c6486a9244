"""A command of gcbench in a queue, through submitit: Slurm, or this machine's own processes to try it out.

The queue runs `QueuedCommand` once on every node. Near its time limit, or when it has to make room, the first node's
command is asked to stop, writes a checkpoint, and the job goes back into the queue.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcbench.errors import InputError, require
from gcbench.training.worker_processes import PAUSED

_SIGNAL_DELAY = (
    300  # seconds before the limit that Slurm sends its signal: time for a step, an evaluation, a checkpoint
)
_RESTARTS = 1000  # times that a job may reach its limit and go on
_POLL = 0.2


class QueuedCommand:
    """What runs on every node of a job: a command with this node's place among the others.

    Args:
        words: of the command, without `gcbench`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._process: subprocess.Popen[bytes] | None = None
        self._code: int | None = None

    def __call__(self) -> str:
        """Run it to its end; says how it ended.

        Raises:
            RuntimeError: it failed; its output is in the job's log.
        """
        submitit = require("submitit", "queue", "a queue")
        there = submitit.JobEnvironment()
        words = [*self.words, *_place(there.num_nodes, there.node, there.hostnames, str(there.job_id))]
        self._process = subprocess.Popen([sys.executable, "-m", "gcbench", *words])
        threading.Thread(target=self._wait, daemon=True).start()
        code = self._end()
        if code not in (0, PAUSED):
            raise RuntimeError(f"gcbench {self.words[0]} ended with exit code {code}; see the job's log.")
        return "done" if code == 0 else "stopped with a checkpoint"

    def checkpoint(self) -> Any:
        """Called by submitit when the job has to stop: what goes into the queue in its place."""
        if self._process is not None:
            self._process.terminate()
            self._end()
        submitit = require("submitit", "queue", "a queue")
        return submitit.helpers.DelayedSubmission(QueuedCommand(self.words))

    def __getstate__(self) -> dict[str, Any]:
        return {"words": self.words, "_process": None, "_code": None}

    def _wait(self) -> None:
        assert self._process is not None
        self._code = self._process.wait()

    def _end(self) -> int:
        """The exit code. Without a lock, as a signal's handler asks while the main program waits."""
        while self._code is None:
            time.sleep(_POLL)
        return self._code


@dataclass(frozen=True)
class Request:
    """What a job asks of the queue.

    Attributes:
        name: of the job.
        nodes: how many nodes; `gpus` and `cpus`: of each.
        minutes: its time limit; when it is reached, the job goes on in a next one.
        logs: folder for the job's files.
        options: of sbatch, by name, such as ``{"partition": "gpu"}``.
    """

    name: str
    nodes: int
    gpus: int
    cpus: int | None
    minutes: int
    logs: Path
    options: Mapping[str, str] = field(default_factory=dict)


def submit(words: Sequence[str], request: Request, cluster: Literal["slurm", "local"]) -> Any:
    """Put a command into the queue; returns submitit's job.

    Raises:
        InputError: there is no such queue here, or it does not take the request.
        MissingExtraError: submitit is not installed.
    """
    submitit = require("submitit", "queue", "a queue")
    try:
        executor = submitit.AutoExecutor(folder=request.logs, cluster=cluster, slurm_max_num_timeout=_RESTARTS)
        executor.update_parameters(
            name=request.name,
            nodes=request.nodes,
            tasks_per_node=1,
            gpus_per_node=request.gpus,
            timeout_min=request.minutes,
            **({} if request.cpus is None else {"cpus_per_task": request.cpus}),
            **({"slurm_additional_parameters": dict(request.options)} if request.options else {}),
            **({"slurm_signal_delay_s": _SIGNAL_DELAY} if cluster == "slurm" else {}),
        )
        return executor.submit(QueuedCommand(words))
    except (RuntimeError, ValueError, OSError, submitit.core.utils.FailedJobError) as error:
        raise InputError(
            f"The queue does not take the job: {error}",
            "Run this where sbatch works, or try it on this machine with --cluster local.",
        ) from error


def _place(nodes: int, node: int, hosts: Sequence[str], job: str) -> list[str]:
    """The options that say where a node is. The port follows from the job, as other jobs may share its first node."""
    if nodes == 1:
        return []
    port = 20000 + zlib.crc32(job.encode()) % 20000
    return ["--nodes", str(nodes), "--node-rank", str(node), "--main-address", f"{hosts[0]}:{port}"]
