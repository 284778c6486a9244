"""Several nodes: their launchers meet, say what does not fit, and notice within seconds when one is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcbench.errors import GcbenchError, InputError, RunError
from gcbench.training.launch import Launch
from gcbench.training.nodes import NodeLink, parse_address


@pytest.fixture
def address() -> tuple[str, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("text", "address"), [("node01:29500", ("node01", 29500)), ("[fe80::1]:80", ("fe80::1", 80)), ("h:1", ("h", 1))]
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["node01", ":29500", "node01:", "node01:0", "node01:99999", "node01:x"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InputError, match=r"is no address\. Give HOST:PORT"):
        parse_address(text)


def test_impossible_launches() -> None:
    with pytest.raises(InputError, match="at least one process"):
        Launch(0)
    with pytest.raises(InputError, match=r"--node-rank 2: there are 2 nodes"):
        Launch(nodes=2, node_rank=2, main_address=("a", 1))
    with pytest.raises(InputError, match="--main-address"):
        Launch(nodes=2)


def meet(address: tuple[str, int], offers: dict[int, dict[str, Any]], nodes: int) -> dict[int, Any]:
    """Every node's link, or its error."""
    met: dict[int, Any] = {}

    def one(rank: int) -> None:
        try:
            met[rank] = NodeLink(address, nodes, rank, offers[rank], patience=8)
        except GcbenchError as error:
            met[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in offers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return met


def test_nodes_meet_and_hear_each_other(address: tuple[str, int]) -> None:
    links = meet(address, {rank: {"job": "a"} for rank in range(3)}, 3)
    assert len({link.port for link in links.values()}) == 1
    heard: list[tuple[int, Any]] = []
    links[0].listen(lambda node, message: heard.append((node, message)))
    links[2].say({"end": 0})
    links[1].close()
    deadline = time.monotonic() + 5
    while len(heard) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(heard, key=str) == [(1, None), (2, {"end": 0})]
    for link in links.values():
        link.close()


def test_nodes_that_do_not_fit_are_told_why(address: tuple[str, int]) -> None:
    met = meet(address, {0: {"processes": 2}, 1: {"processes": 4}}, 2)
    assert "processes is 4 there, 2 here" in str(met[0])
    assert "processes is 4 there, 2 here" in str(met[1])


def test_a_node_that_does_not_come_is_named(address: tuple[str, int]) -> None:
    with pytest.raises(RunError, match="1 of 2 nodes did not come: --node-rank 1"):
        NodeLink(address, 2, 0, {}, patience=0.3)
    with pytest.raises(RunError, match=f"does not answer at 127.0.0.1:{address[1]}"):
        NodeLink(address, 2, 1, {}, patience=0.3)


def test_strangers_are_shown_out(address: tuple[str, int]) -> None:
    def knock() -> None:
        with socket.create_connection(address, timeout=5) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")

    first: list[NodeLink] = []
    waiting = threading.Thread(target=lambda: first.append(NodeLink(address, 2, 0, {}, patience=8)))
    waiting.start()
    time.sleep(0.3)
    knock()
    second = NodeLink(address, 2, 1, {}, patience=8)
    waiting.join()
    assert first[0].port == second.port
    first[0].close()
    second.close()


NODE = """
import json, sys
from pathlib import Path
from gcbench.errors import GcbenchError, Paused
from gcbench.training.launch import Launch, run_worker

folder, rank, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
launch = Launch(cpu=True, nodes=2, node_rank=rank, main_address=("127.0.0.1", port))
try:
    run_worker("tests.training.processes_worker", folder, folder / "log",
               lambda event: print(json.dumps(event), flush=True), launch)
except GcbenchError as error:
    print(json.dumps({"event": "end", "error": str(error)}))
except Paused:
    print(json.dumps({"event": "end", "error": "paused"}))
"""


@pytest.fixture
def nodes(tmp_path: Path, address: tuple[str, int]) -> Callable[..., list[subprocess.Popen[str]]]:
    """Starts two nodes of one process each in one folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "job.json").touch()

    def start(**options: Any) -> list[subprocess.Popen[str]]:
        (folder / "options.json").write_text(json.dumps(options))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        return [
            subprocess.Popen(
                [sys.executable, "-c", NODE, str(folder), str(rank), str(address[1])],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(2)
        ]

    return start


def events(node: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = node.communicate(timeout=120)
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("victim", [0, 1])
def test_two_nodes_train_and_one_that_dies_ends_the_other_and_both_go_on(
    nodes: Callable[..., list[subprocess.Popen[str]]], victim: int
) -> None:
    pair = nodes(steps=2000)
    assert pair[0].stdout is not None
    for line in pair[0].stdout:
        if json.loads(line).get("step", 0) >= 10:
            break
    pair[victim].send_signal(signal.SIGKILL)
    started = time.monotonic()
    other = pair[1 - victim]
    last = events(other)[-1]
    assert time.monotonic() - started < 30
    assert last["event"] == "end" and f"Node {victim} is gone" in last["error"]
    assert "Run the same command on all nodes to go on from the last checkpoint" in last["error"]
    pair[victim].communicate()
    time.sleep(1.0)  # the dead node's worker ends by itself

    first, second = (events(node) for node in nodes(steps=40))
    assert first[0]["event"] == "resumed" and first[0]["step"] >= 8
    assert first[-1]["event"] == "weights" and second == []


def test_a_failure_on_one_node_is_told_by_both(nodes: Callable[..., list[subprocess.Popen[str]]]) -> None:
    ends = [events(node)[-1] for node in nodes(steps=20, spoil=[[1, 3], [1, 4], [1, 5]])]
    assert all(end["event"] == "end" and "3 steps in a row" in end["error"] for end in ends)
