"""The processes of one job on one node: what they say is passed on, and one that fails ends the others."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from gcbench.errors import Paused
from gcbench.training.nodes import NodeLink

if TYPE_CHECKING:
    from gcbench.training.launch import Launch

INTERRUPTED = 130
PAUSED = 75  # EX_TEMPFAIL of sysexits.h: a checkpoint is written, the same command goes on
_ASKING = 0.2  # seconds between two looks at whether to stop
_GRACE = 5.0  # seconds for a process to end when it is asked to
_SAVING = 120.0  # seconds for the first process to save what it has when the others are gone already
_WELL = (0, INTERRUPTED, PAUSED)


class Interruption:
    """Asks jobs that run in other threads to stop: once for a checkpoint, twice for at once."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = threading.Event()

    def ask(self) -> None:
        """Stop; asked again, at once."""
        (self._at_once if self._asked.is_set() else self._asked).set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    @property
    def at_once(self) -> bool:
        return self._at_once.is_set()


@dataclass(frozen=True)
class End:
    """How a job ended: the exit code that decided, whose it was, and what it said of its failure."""

    code: int
    who: str = "The worker"
    failure: dict[str, Any] | None = None


class WorkerProcesses:
    """The processes of one job on this node, and what they and the other nodes say."""

    def __init__(
        self,
        command: list[str],
        log: IO[bytes],
        environments: list[dict[str, str]],
        launch: Launch,
        link: NodeLink | None,
        interruption: Interruption | None = None,
    ) -> None:
        self.log, self.launch, self.link = log, launch, link
        self.interruption = interruption or Interruption()
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

    def follow(self, on_event: Callable[[dict[str, Any]], None]) -> End:
        """Pass events on until all have ended well or one has not; what decided.

        When the very first process has ended well the job is done, and the others get a moment to end too.
        """
        left, finished, code, deadline = set(range(len(self.processes))), set[int](), INTERRUPTED, float("inf")
        while left:
            try:
                source, number, said = self._heard.get(timeout=min(_ASKING, max(deadline - time.monotonic(), 0.0)))
            except queue.Empty:
                if self.interruption.asked:
                    raise KeyboardInterrupt from None
                if time.monotonic() >= deadline:
                    break
                continue
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
        return End(code)

    def interrupt(self) -> None:
        """Ask all to stop; the first one writes a checkpoint before it ends. A second Ctrl-C kills."""
        for process in self.processes:
            process.terminate()
        try:
            first, others = self.processes[0], self.processes[1:]
            gone = None
            while first.poll() is None and (gone is None or time.monotonic() - gone < _SAVING):
                time.sleep(0.05)
                if self.interruption.at_once:
                    raise KeyboardInterrupt
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

    def _blame(self, local: int, code: int) -> End:
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
        return End(code, who, failure)

    def _said_by_nodes(self) -> End | None:
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

    def _lost(self, node: int, said: dict[str, Any] | None) -> End:
        """Another node failed, or its launcher is gone."""
        if said is not None and "failed" in said:
            failed = said["failed"]
            return End(int(failed["code"]), f"{failed['who']}, on node {node},", failed["failure"])
        return End(
            1,
            failure={
                "message": f"Node {node} is gone: it ended, or lost its network.",
                "way_out": "Run the same command on all nodes to go on from the last checkpoint.",
                "exit_code": 1,
            },
        )

    def _end_with(self, end: End) -> End:
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


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
