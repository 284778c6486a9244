"""Starts a job as a worker process and passes its events on. Importing this module imports no torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gcbench.errors import GcbenchError, RunError

INTERRUPTED = 130


def run_worker(module: str, job_file: Path, log_file: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
    """Run `python -m module job_file` to its end.

    Args:
        module: the worker's module; it writes one JSON event per line to its standard output.
        log_file: gets the worker's standard error, appended.
        on_event: called with every event.

    Raises:
        KeyboardInterrupt: the worker was interrupted and has saved what it had.
        GcbenchError: the worker failed; says why and where its log is.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    failure: dict[str, Any] | None = None
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(job_file)],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the worker once
            # threads that wait by spinning make every step several times slower as soon as a core is shared
            env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ},
        )
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                event = _parse(line)
                if event is None:
                    log.write(line)
                elif event.get("event") == "error":
                    failure = event
                else:
                    on_event(event)
            code = process.wait()
        except BaseException:
            process.terminate()  # the worker writes a checkpoint before it ends
            try:
                process.wait()
            except KeyboardInterrupt:
                process.kill()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != 0:
        _fail(failure, code, log_file)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _fail(failure: dict[str, Any] | None, code: int, log_file: Path) -> None:
    if failure is None:
        tail = log_file.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise RunError(f"The worker ended with exit code {code}: {tail[0]}", f"Its log: {log_file}")
    error = GcbenchError(str(failure["message"]), f"{failure['way_out']} Log: {log_file}".strip())
    error.exit_code = int(failure["exit_code"])
    raise error
