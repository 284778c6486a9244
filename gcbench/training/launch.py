"""Starts a job as one worker process or several, on one node or several, and passes its events on. Imports no torch.

Processes find each other through plain environment variables: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. The first one (rank 0) reports; when one fails, the others are ended within seconds, on all nodes.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from gcbench.errors import GcbenchError, InputError, Paused, RefusedError, RunError
from gcbench.training.nodes import NodeLink

INTERRUPTED = 130
PAUSED = 75  # EX_TEMPFAIL of sysexits.h: a checkpoint is written, the same command goes on
DEADLINE_VARIABLE = "GCBENCH_DEADLINE"
"""When a training must have ended, seconds since 1970."""
_GRACE = 5.0  # seconds for a process to end when it is asked to
_SAVING = 120.0  # seconds for the first process to save what it has when the others are gone already
_SHARED = 60.0  # seconds for a file to appear on shared storage
_WELL = (0, INTERRUPTED, PAUSED)
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
    """

    processes: int = 1
    cpu: bool = False
    nodes: int = 1
    node_rank: int = 0
    main_address: tuple[str, int] | None = None
    deadline: float | None = None
    trackers: tuple[str, ...] | None = None

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
) -> None:
    """Run `python -m module job_file` to its end.

    On other nodes than the first the job file is waited for, as the first one writes it.

    Args:
        module: the worker's module; it writes one JSON event per line to its standard output.
        log_file: gets the workers' standard error, appended; with several nodes each has a file of its own.
        on_event: called with every event.
        launch: how many processes, and where; by default one.

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
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with log_file.open("ab") as log:
            command = [sys.executable, "-m", module, str(job_file)]
            workers = _Workers(command, log, _environments(launch, link.port if link else None), launch, link)
            try:
                end = workers.follow(on_event)
            except BaseException:
                workers.interrupt()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if link is not None:
            link.close()
    if end.code == PAUSED:
        raise Paused
    if end.code == INTERRUPTED:
        raise KeyboardInterrupt
    if end.code != 0:
        _fail(end, log_file)


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


@dataclass(frozen=True)
class _End:
    """How a job ended: the exit code that decided, whose it was, and what it said of its failure."""

    code: int
    who: str = "The worker"
    failure: dict[str, Any] | None = None


class _Workers:
    """The processes of one job on this node, and what they and the other nodes say."""

    def __init__(
        self,
        command: list[str],
        log: IO[bytes],
        environments: list[dict[str, str]],
        launch: Launch,
        link: NodeLink | None,
    ) -> None:
        self.log, self.launch, self.link = log, launch, link
        self.failures: dict[int, dict[str, Any]] = {}
        self._heard: queue.Queue[tuple[str, int, Any]] = queue.Queue()
        self.processes: list[subprocess.Popen[bytes]] = []
        for local, environment in enumerate(environments):
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                # a pipe tells the others when this process is gone: the very first one notices when it reports
                stdin=subprocess.PIPE if local or not launch.is_main else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the workers once
                env=environment,
            )
            self.processes.append(process)
            assert process.stdout is not None
            threading.Thread(target=self._read, args=(local, process.stdout), daemon=True).start()
        if link is not None:
            link.listen(lambda node, message: self._heard.put(("node", node, message)))

    def follow(self, on_event: Callable[[dict[str, Any]], None]) -> _End:
        """Pass events on until all have ended well or one has not; what decided.

        When the very first process has ended well the job is done, and the others get a moment to end too.
        """
        left, finished, code, deadline = set(range(len(self.processes))), set[int](), INTERRUPTED, float("inf")
        while left:
            try:
                patience = None if deadline == float("inf") else max(deadline - time.monotonic(), 0.0)
                source, number, said = self._heard.get(timeout=patience)
            except queue.Empty:
                break
            if source == "line":
                self._pass_on(number, said, on_event)
            elif source == "node":
                if said is not None and "end" in said:
                    finished.add(number)
                    if number == 0:  # then these will be done soon
                        code, deadline = int(said["end"]), time.monotonic() + _GRACE
                elif deadline == float("inf") and number not in finished:
                    return self._end_with(self._lost(number, said))
            else:
                ended = self.processes[number].wait()
                left.discard(number)
                if number == 0 and ended in _WELL:
                    code = ended
                    if self.launch.is_main:
                        deadline = time.monotonic() + _GRACE
                elif ended not in _WELL and deadline == float("inf"):
                    return self._end_with(self._blame(number, ended))
        self._end(patient=False)
        self._say_end(code)
        return _End(code)

    def interrupt(self) -> None:
        """Ask all to stop; the first one writes a checkpoint before it ends. A second Ctrl-C kills."""
        for process in self.processes:
            process.terminate()
        try:
            first, others = self.processes[0], self.processes[1:]
            gone = None
            while first.poll() is None and (gone is None or time.monotonic() - gone < _SAVING):
                time.sleep(0.05)
                if others and gone is None and any(process.poll() is not None for process in others):
                    gone = time.monotonic()
            if first.poll() == PAUSED:
                self._say_end(PAUSED)
                raise Paused
        finally:
            self._end(patient=self.processes[0].poll() is not None)

    def _say_end(self, code: int) -> None:
        if self.link is not None:
            self.link.say({"end": code})

    def _pass_on(self, local: int, line: bytes, on_event: Callable[[dict[str, Any]], None]) -> None:
        event = _parse(line)
        if event is None:
            self.log.write(line)
        elif event["event"] == "error":
            self.failures[local] = event
        else:
            on_event(event)

    def _blame(self, local: int, code: int) -> _End:
        """Why a process ended: if another was killed at that moment, this one failed because of that."""
        time.sleep(0.1)  # a process that was killed and those that lost it end at the same moment
        for other, process in enumerate(self.processes):
            if (process.poll() or 0) < 0 and code >= 0:
                local, code = other, process.returncode
        rank = self.launch.node_rank * self.launch.processes + local
        who = "The worker" if self.launch.world == 1 else f"Process {rank + 1} of {self.launch.world}"
        failure = self.failures.get(local)
        if self.link is not None and failure is not None and not failure.get("refused"):
            said = self._said_by_nodes()  # a failure of another node is the cause, this one lost its connection
            if said is not None:
                return said
        return _End(code, who, failure)

    def _said_by_nodes(self) -> _End | None:
        """What another node says within a moment, if it says that it failed or is gone."""
        deadline = time.monotonic() + 2.0
        while (left := deadline - time.monotonic()) > 0:
            try:
                source, number, said = self._heard.get(timeout=left)
            except queue.Empty:
                break
            if source == "node" and not (said is not None and "end" in said):
                return self._lost(number, said)
        return None

    def _lost(self, node: int, said: dict[str, Any] | None) -> _End:
        """Another node failed, or its launcher is gone."""
        if said is not None and "failed" in said:
            failed = said["failed"]
            return _End(int(failed["code"]), f"{failed['who']}, on node {node},", failed["failure"])
        return _End(
            1,
            failure={
                "message": f"Node {node} is gone: it ended, or lost its network.",
                "way_out": "Run the same command on all nodes to go on from the last checkpoint.",
                "exit_code": 1,
            },
        )

    def _end_with(self, end: _End) -> _End:
        """End the processes of this node because of a failure, and let the other nodes know."""
        if self.link is not None:
            self.link.say({"failed": {"code": end.code, "who": end.who, "failure": end.failure}})
        for process in self.processes:
            process.terminate()
        self._end()
        return end

    def _end(self, *, patient: bool = True) -> None:
        """Wait for all to end, and kill those that do not."""
        deadline = time.monotonic() + (_GRACE if patient else 0.0)
        for process in self.processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()

    def _read(self, local: int, stream: IO[bytes]) -> None:
        for line in stream:
            self._heard.put(("line", local, line))
        self._heard.put(("ended", local, None))


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


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _fail(end: _End, log_file: Path) -> NoReturn:
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
