"""Options of processes, nodes, time and trackers: what they mean, and which contradict each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gcbench.cli.launch_options import launch_of, seconds_of
from gcbench.errors import InputError

CONFIG: dict[str, Any] = {  # as `accelerate config` writes it
    "compute_environment": "LOCAL_MACHINE",
    "debug": False,
    "distributed_type": "MULTI_CPU",
    "downcast_bf16": "no",
    "enable_cpu_affinity": False,
    "machine_rank": 0,
    "main_training_function": "main",
    "mixed_precision": "no",
    "num_machines": 1,
    "num_processes": 2,
    "rdzv_backend": "static",
    "same_network": True,
    "use_cpu": True,
}


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_time_of_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int) -> None:
    expected = 3600 * hours + 60 * minutes + seconds
    text = f"{hours}:{minutes:02}:{seconds:02}"
    if expected:
        assert seconds_of(text) == expected
    else:
        with pytest.raises(InputError, match="is no time"):
            seconds_of(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("11.5h", 41400), ("2d", 172800), ("1:30", 5400)]
)
def test_a_time_in_a_unit(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "10", "-3h", "1:75", "1e3h", "0m", "3 h"])
def test_no_time(text: str) -> None:
    with pytest.raises(InputError, match="11:30:00"):
        seconds_of(text)


def test_a_limit_is_a_moment() -> None:
    deadline = launch_of(None, None, time_limit="2h").deadline
    assert deadline == pytest.approx(time.time() + 7200, abs=60)


def config(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(CONFIG | changes))
    return path


def test_a_file_of_accelerate(tmp_path: Path) -> None:
    launch = launch_of(None, None, accelerate_config=config(tmp_path / "a.yaml"))
    assert (launch.processes, launch.cpu, launch.nodes) == (2, True, 1)
    two = {
        "num_machines": 2,
        "num_processes": 4,
        "machine_rank": 1,
        "main_process_ip": "node0",
        "main_process_port": 29511,
    }
    launch = launch_of(None, None, accelerate_config=config(tmp_path / "b.yaml", **two))
    assert (launch.processes, launch.nodes, launch.node_rank, launch.main_address) == (2, 2, 1, ("node0", 29511))
    launch = launch_of(None, None, node_rank=0, main_address="other:1", accelerate_config=tmp_path / "b.yaml")
    assert (launch.node_rank, launch.main_address) == (0, ("other", 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distributed_type": "DEEPSPEED"}, "DEEPSPEED"),
        ({"num_machines": 2, "num_processes": 3, "main_process_ip": "a"}, "3 processes for 2 nodes"),
        ({"num_processes": "many"}, "no configuration of accelerate"),
        ({"nonsense": 1}, "no configuration of accelerate"),
    ],
)
def test_a_file_that_cannot_be_followed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = config(tmp_path / "a.yaml", **changes)
    with pytest.raises(InputError, match=message) as caught:
        launch_of(None, None, accelerate_config=path)
    assert str(path) in caught.value.message


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accelerate config"):
        launch_of(None, None, accelerate_config=tmp_path / "gone.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"broken.yaml"):
        launch_of(None, None, accelerate_config=tmp_path / "broken.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 1, "cpu_processes": 1}, "exclude each other"),
        ({"gpus": None, "cpu_processes": 1, "accelerate_config": Path("x")}, "--cpu-processes exclude"),
        ({"gpus": None, "cpu_processes": None, "node_rank": 1}, "Give --nodes"),
        ({"gpus": None, "cpu_processes": None, "nodes": 2}, "--main-address"),
        ({"gpus": None, "cpu_processes": 1, "nodes": 2, "node_rank": 2, "main_address": "a:1"}, "there are 2 nodes"),
        ({"gpus": None, "cpu_processes": None, "tracker": ["none", "tensorboard"]}, "excludes all others"),
        ({"gpus": None, "cpu_processes": None, "tracker": ["abacus"]}, "no tracker 'abacus'"),
    ],
)
def test_contradictions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launch_of(**options)


def test_trackers() -> None:
    assert launch_of(None, None).trackers is None
    assert launch_of(None, None, tracker=["none"]).trackers == ()
    assert launch_of(None, None, tracker=["tensorboard", "tensorboard"]).trackers == ("tensorboard",)
