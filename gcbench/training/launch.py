"""Starts a job as one worker process or several, on one node or several, and passes its events on. Imports no torch.

Processes find each other through plain environment variables: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. The first one (rank 0) reports; when one fails, the others are ended within seconds, on all nodes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gcbench.errors import GcbenchError, InputError, Paused, RefusedError, RunError
from gcbench.training.nodes import NodeLink
from gcbench.training.worker_processes import INTERRUPTED, PAUSED, End, Interruption, WorkerProcesses

DEADLINE_VARIABLE = "GCBENCH_DEADLINE"
"""When a training must have ended, seconds since 1970."""
_SHARED = 60.0  # seconds for a file to appear on shared storage
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """With how many processes a job runs, and where.

    Attributes:
        processes: on this node; each on a GPU of its own, or all on the CPU.
        cpu: hide the GPUs from them.
        nodes: how many nodes there are, each with as many processes.
        node_rank: which one this is.
        main_address: host and port of the first node; several nodes need it.
        deadline: when to have stopped, with a checkpoint; seconds since 1970.
        trackers: names of Accelerate's trackers; None leaves the default.
        threads: that a process computes with on the CPU; None leaves it to the libraries.
        devices: the GPUs that it may see, by number; None means all.
    """

    processes: int = 1
    cpu: bool = False
    nodes: int = 1
    node_rank: int = 0
    main_address: tuple[str, int] | None = None
    deadline: float | None = None
    trackers: tuple[str, ...] | None = None
    threads: int | None = None
    devices: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or self.nodes < 1:
            raise InputError(f"A job needs at least one process and one node, not {self.processes} on {self.nodes}.")
        if not 0 <= self.node_rank < self.nodes:
            raise InputError(
                f"--node-rank {self.node_rank}: there are {self.nodes} nodes.", "Ranks are 0, 1, ... one for each node."
            )
        if self.nodes > 1 and self.main_address is None:
            raise InputError(f"--nodes {self.nodes} need a place to meet.", "Give --main-address HOST:PORT.")

    @property
    def world(self) -> int:
        """All processes of all nodes."""
        return self.processes * self.nodes

    @property
    def is_main(self) -> bool:
        """Whether this is the first node, which alone writes the run's folder."""
        return self.node_rank == 0


def run_worker(
    module: str,
    job_file: Path,
    log_file: Path,
    on_event: Callable[[dict[str, Any]], None],
    launch: Launch | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Run `python -m module job_file` to its end.

    On other nodes than the first the job file is waited for, as the first one writes it.

    Args:
        module: the worker's module; it writes one JSON event per line to its standard output.
        log_file: gets the workers' standard error, appended; with several nodes each has a file of its own.
        on_event: called with every event.
        launch: how many processes, and where; by default one.
        interruption: tells a job to stop that runs in another thread than the main one, which gets the signals.

    Raises:
        Paused: the job was asked to stop, or its time was up, and it has saved what it had.
        KeyboardInterrupt: the job was interrupted where there was nothing to save.
        RefusedError: the job was refused before it began.
        GcbenchError: a process failed; says why and where its log is.
    """
    launch = launch or Launch()
    if not launch.is_main:
        log_file = log_file.with_name(f"{log_file.stem}-node{launch.node_rank}{log_file.suffix}")
    link = None
    if launch.nodes > 1:
        assert launch.main_address is not None
        offer = {"processes": launch.processes, "nodes": launch.nodes, "job": str(job_file)}
        link = NodeLink(launch.main_address, launch.nodes, launch.node_rank, offer)
        _await(job_file)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with terminated_as_interrupted(), log_file.open("ab") as log:
            command = [sys.executable, "-m", module, str(job_file)]
            workers = WorkerProcesses(
                command, log, _environments(launch, link.port if link else None), launch, link, interruption
            )
            try:
                end = workers.follow(on_event)
            except BaseException:
                workers.interrupt()
                raise
    finally:
        if link is not None:
            link.close()
    if end.code == PAUSED:
        raise Paused
    if end.code == INTERRUPTED:
        raise KeyboardInterrupt
    if end.code != 0:
        _fail(end, log_file)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is what Ctrl-C is; only in the main thread, the only one that gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_worker(code: int) -> NoReturn:
    """End a worker process; the last thing it does.

    One of several ends at once, without the clean-up of its libraries: threads of torch's process group abort that now
    and then ("terminate called without an active exception"), long after all work was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(code)
    sys.exit(code)


def check_gpus(wanted: int) -> None:
    """Raises InputError if this machine has fewer GPUs than `wanted`. Imports torch."""
    import torch

    found = torch.cuda.device_count()
    if wanted > found:
        raise InputError(
            f"--gpus {wanted}: this machine has {found or 'no'} GPU{'' if found == 1 else 's'} that torch can use.",
            f"Use --gpus {found}." if found else "Leave the option away to train on the CPU.",
        )


def _await(job_file: Path) -> None:
    """The first node has written the job before the nodes meet; shared storage may show it a moment later."""
    deadline = time.monotonic() + _SHARED
    while not job_file.exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"{job_file} is not here, though the first node has written it.",
                "Give a folder (--out) on storage that all nodes share.",
            )
        time.sleep(0.2)


def _environments(launch: Launch, port: int | None) -> list[dict[str, str]]:
    """The environment of each process. A place in another group of processes is not inherited."""
    # threads that wait by spinning make every step several times slower as soon as a core is shared
    shared = {"OMP_WAIT_POLICY": "PASSIVE", **{k: v for k, v in os.environ.items() if k not in _PLACE}}
    if launch.cpu:
        shared["CUDA_VISIBLE_DEVICES"] = ""
    elif launch.devices is not None:
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, launch.devices))
    if launch.threads is not None:
        shared |= {"OMP_NUM_THREADS": str(launch.threads), "NUMBA_NUM_THREADS": str(launch.threads)}
    if launch.deadline is not None:
        shared[DEADLINE_VARIABLE] = str(launch.deadline)
    if launch.trackers is not None:
        shared["GCBENCH_TRACKERS"] = ",".join(launch.trackers)
    if launch.world == 1:
        return [shared]
    host = launch.main_address[0] if launch.main_address and launch.nodes > 1 else "127.0.0.1"
    shared.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // launch.processes, 1)))
    shared |= {"MASTER_ADDR": host, "MASTER_PORT": str(port or _free_port())}
    shared |= {"WORLD_SIZE": str(launch.world), "LOCAL_WORLD_SIZE": str(launch.processes)}
    first = launch.node_rank * launch.processes
    return [{**shared, "RANK": str(first + k), "LOCAL_RANK": str(k)} for k in range(launch.processes)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fail(end: End, log_file: Path) -> NoReturn:
    failure, code = end.failure, end.code
    if failure is None:
        tail = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}: {tail[0]}"
        raise RunError(f"{end.who} {how}.", f"Run the same command to go on from the last checkpoint. Log: {log_file}")
    if failure.get("refused"):
        raise RefusedError(str(failure["message"]), str(failure["way_out"]))
    error = GcbenchError(str(failure["message"]), f"{failure['way_out']} Log: {log_file}".strip())
    error.exit_code = int(failure["exit_code"])
    raise error
