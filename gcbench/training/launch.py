"""Starts a job as one worker process or several and passes its events on. Importing this module imports no torch.

Several processes find each other through plain environment variables: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. The first one (rank 0) reports; when one fails, the others are ended within seconds.
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
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from gcbench.errors import GcbenchError, InputError, RefusedError, RunError

INTERRUPTED = 130
_GRACE = 5.0  # seconds for a process to end when it is asked to
_SAVING = 120.0  # seconds for the first process to save what it has when the others are gone already
_PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_worker(
    module: str,
    job_file: Path,
    log_file: Path,
    on_event: Callable[[dict[str, Any]], None],
    *,
    processes: int = 1,
    cpu: bool = False,
) -> None:
    """Run `python -m module job_file` to its end.

    Args:
        module: the worker's module; it writes one JSON event per line to its standard output.
        log_file: gets the workers' standard error, appended.
        on_event: called with every event.
        processes: how many work on it together, each on a GPU of its own.
        cpu: hide the GPUs from them.

    Raises:
        KeyboardInterrupt: the job was interrupted and has saved what it had.
        RefusedError: the job was refused before it began.
        GcbenchError: a process failed; says why and where its log is.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        workers = _Workers([sys.executable, "-m", module, str(job_file)], log, _environments(processes, cpu))
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            rank, code = workers.follow(on_event)
        except BaseException:
            workers.interrupt()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        who = "The worker" if processes == 1 else f"Process {rank + 1} of {processes}"
        _fail(workers.failures.get(rank), who, code, log_file)


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


class _Workers:
    """The processes of one job, and what they write."""

    def __init__(self, command: list[str], log: IO[bytes], environments: list[dict[str, str]]) -> None:
        self.log = log
        self.failures: dict[int, dict[str, Any]] = {}
        self._lines: queue.Queue[tuple[int, bytes | None]] = queue.Queue()
        self.processes: list[subprocess.Popen[bytes]] = []
        for rank, environment in enumerate(environments):
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                # a pipe tells the others when this process is gone: the first one notices when it reports
                stdin=subprocess.PIPE if rank else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the workers once
                env=environment,
            )
            self.processes.append(process)
            assert process.stdout is not None
            threading.Thread(target=self._read, args=(rank, process.stdout), daemon=True).start()

    def follow(self, on_event: Callable[[dict[str, Any]], None]) -> tuple[int, int]:
        """Pass events on until all have ended well or one has not; (rank, exit code) of what decided.

        When the first one has ended well the job is done, and the others get a moment to end too.
        """
        left, result, deadline = set(range(len(self.processes))), INTERRUPTED, float("inf")
        while left:
            try:
                patience = None if deadline == float("inf") else max(deadline - time.monotonic(), 0.0)
                rank, line = self._lines.get(timeout=patience)
            except queue.Empty:
                break
            if line is not None:
                self._pass_on(rank, line, on_event)
                continue
            code = self.processes[rank].wait()
            left.discard(rank)
            if rank == 0 and code in (0, INTERRUPTED):
                result, deadline = code, time.monotonic() + _GRACE
            elif code not in (0, INTERRUPTED) and deadline == float("inf"):
                return self._blame(rank, code)
        self._end(patient=False)
        return 0, result

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
        finally:
            self._end(patient=self.processes[0].poll() is not None)

    def _pass_on(self, rank: int, line: bytes, on_event: Callable[[dict[str, Any]], None]) -> None:
        event = _parse(line)
        if event is None:
            self.log.write(line)
        elif event["event"] == "error":
            self.failures[rank] = event
        else:
            on_event(event)

    def _blame(self, rank: int, code: int) -> tuple[int, int]:
        """End the others; if one of them was killed, the failure of this one followed from that."""
        time.sleep(0.1)  # a process that was killed and those that lost it end at the same moment
        for other, process in enumerate(self.processes):
            if (process.poll() or 0) < 0 and code >= 0:
                rank, code = other, process.returncode
        for process in self.processes:
            process.terminate()
        self._end()
        return rank, code

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

    def _read(self, rank: int, stream: IO[bytes]) -> None:
        for line in stream:
            self._lines.put((rank, line))
        self._lines.put((rank, None))


def _environments(processes: int, cpu: bool) -> list[dict[str, str]]:
    """The environment of each process. A place in another group of processes is not inherited."""
    if processes < 1:
        raise InputError(f"A job needs at least one process, not {processes}.")
    # threads that wait by spinning make every step several times slower as soon as a core is shared
    shared = {"OMP_WAIT_POLICY": "PASSIVE", **{k: v for k, v in os.environ.items() if k not in _PLACE}}
    if cpu:
        shared["CUDA_VISIBLE_DEVICES"] = ""
    if processes == 1:
        return [shared]
    shared.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


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


def _fail(failure: dict[str, Any] | None, who: str, code: int, log_file: Path) -> None:
    if failure is None:
        tail = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        end = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}: {tail[0]}"
        raise RunError(f"{who} {end}.", f"Run the same command to go on from the last checkpoint. Log: {log_file}")
    if failure.get("refused"):
        raise RefusedError(str(failure["message"]), str(failure["way_out"]))
    error = GcbenchError(str(failure["message"]), f"{failure['way_out']} Log: {log_file}".strip())
    error.exit_code = int(failure["exit_code"])
    raise error
