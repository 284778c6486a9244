"""Options of a launch: times, contradictions, files of `accelerate config`, trackers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config import config_args
from hypothesis import given
from hypothesis import strategies as st

from gcbench.cli.launch_options import launch_of, seconds_of
from gcbench.errors import InputError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 10**6), st.sampled_from(list(UNITS)))
def test_a_whole_number_of_a_unit(count: int, unit: str) -> None:
    if count:
        assert seconds_of(f"{count}{unit}") == seconds_of(f" {count}.0{unit} ") == count * UNITS[unit]
    else:
        with pytest.raises(InputError):
            seconds_of(f"{count}{unit}")


@given(st.integers(1, 10**6))
def test_clock_times_say_the_seconds_they_are_made_of(seconds: int) -> None:
    minutes, rest = divmod(seconds, 60)
    clock = f"{minutes // 60}:{minutes % 60:02d}"
    assert seconds_of(f"{clock}:{rest:02d}") == seconds == seconds_of(f"{seconds}s")
    if minutes:
        assert seconds_of(clock) == minutes * 60


def test_parts_of_a_unit() -> None:
    assert seconds_of("11.5h") == seconds_of("11:30") == seconds_of("11:30:00") == seconds_of("690m")
    assert seconds_of("0.5s") == 0.5


@pytest.mark.parametrize(
    "text", ["", "soon", "90", "-5m", "1,5h", "1h30m", "5 m", "1w", "5M", "1:60", "1:5", "0:00", "0.0h", "1e3s", "nan"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(InputError, match=r"--time-limit .* is no time\. Give for example 90m"):
        seconds_of(text)


@given(st.text(max_size=12))
def test_any_text_is_a_time_above_nothing_or_refused(text: str) -> None:
    try:
        seconds = seconds_of(text)
    except InputError as error:
        assert error.exit_code == 2 and error.way_out
    else:
        assert 0 < seconds < float("inf")


def test_without_options_one_process_trains_on_what_there_is() -> None:
    launch = launch_of(None, None)
    assert (launch.processes, launch.cpu, launch.nodes, launch.node_rank, launch.main_address) == (1, False, 1, 0, None)
    assert launch.deadline is None and launch.trackers is None


def test_a_time_limit_is_a_deadline() -> None:
    before = time.time()
    deadline = launch_of(None, 1, time_limit="2h").deadline
    assert deadline is not None and before + 7200 <= deadline <= time.time() + 7200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 1, "cpu_processes": 1}, "--gpus and --cpu-processes exclude each other"),
        ({"node_rank": 0}, "Give --nodes too"),
        ({"main_address": "node01:29500"}, "Give --nodes too"),
        ({"nodes": 2}, "Give --main-address HOST:PORT"),
        ({"nodes": 2, "node_rank": 2, "main_address": "node01:29500"}, "--node-rank 2: there are 2 nodes"),
        ({"nodes": 2, "main_address": "node01"}, "--main-address node01 is no address"),
        ({"tracker": ["none", "tensorboard"]}, "--tracker none excludes all others"),
        ({"tracker": ["tensorbord"]}, "There is no tracker 'tensorbord' here.*tensorboard"),
        ({"time_limit": "soon"}, "--time-limit soon is no time"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        launch_of(**{"gpus": None, "cpu_processes": None, **options})


def test_trackers() -> None:
    assert launch_of(None, None, tracker=["none"]).trackers == ()
    assert launch_of(None, None, tracker=["tensorboard", "tensorboard"]).trackers == ("tensorboard",)
    assert launch_of(None, None, tracker=[]).trackers == ()


def accelerate_file(folder: Path, **values: Any) -> Path:
    """A file as `accelerate config` writes it."""
    common = {"compute_environment": "LOCAL_MACHINE", "mixed_precision": "no", "use_cpu": False, "debug": False}
    path = folder / "accelerate.yaml"
    config_args.ClusterConfig(**{**common, **values}).to_yaml_file(str(path))
    return path


def launch_from(path: Path | str, **options: Any) -> Any:
    return launch_of(None, None, accelerate_config=Path(path), **options)


def test_a_file_for_one_process_trains_on_what_there_is(tmp_path: Path) -> None:
    """As without the file: Accelerate, too, takes the CPU where there is no GPU."""
    assert launch_from(accelerate_file(tmp_path, distributed_type="NO", num_processes=1)) == launch_of(None, None)
    alone = launch_from(accelerate_file(tmp_path, distributed_type="NO", num_processes=1, use_cpu=True))
    assert (alone.processes, alone.cpu) == (1, True)


def test_a_file_for_two_processes_on_the_cpu(tmp_path: Path) -> None:
    launch = launch_from(accelerate_file(tmp_path, distributed_type="MULTI_CPU", num_processes=2, use_cpu=True))
    assert (launch.processes, launch.cpu, launch.nodes, launch.main_address) == (2, True, 1, None)


def test_a_file_for_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("gcbench.training.launch.check_gpus", asked.append)
    launch = launch_from(accelerate_file(tmp_path, distributed_type="MULTI_GPU", num_processes=4, gpu_ids="all"))
    assert (launch.processes, launch.cpu, asked) == (4, False, [4])


def test_a_file_for_two_nodes_and_a_rank_that_is_given_beside_it(tmp_path: Path) -> None:
    where = {"num_machines": 2, "machine_rank": 1, "main_process_ip": "node01", "main_process_port": 29400}
    path = accelerate_file(tmp_path, distributed_type="MULTI_CPU", num_processes=6, use_cpu=True, **where)
    launch = launch_from(path)
    assert (launch.processes, launch.world, launch.nodes, launch.node_rank) == (3, 6, 2, 1)
    assert launch.main_address == ("node01", 29400)
    first = launch_from(path, node_rank=0, main_address="node07:1234")
    assert (first.node_rank, first.main_address) == (0, ("node07", 1234))


def test_a_file_without_a_port_meets_at_the_usual_one(tmp_path: Path) -> None:
    where = {"num_machines": 2, "main_process_ip": "node01"}
    path = accelerate_file(tmp_path, distributed_type="MULTI_CPU", num_processes=2, use_cpu=True, **where)
    assert launch_from(path).main_address == ("node01", 29500)


def test_the_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = accelerate_file(tmp_path, distributed_type="MULTI_CPU", num_processes=2, use_cpu=True)
    monkeypatch.setattr(config_args, "default_config_file", str(path))
    assert launch_from("default").processes == 2
    path.unlink()
    with pytest.raises(InputError, match=r"There is no file .*accelerate\.yaml\. Make one with `accelerate config`"):
        launch_from("default")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distributed_type": "DEEPSPEED", "num_processes": 2}, "asks for DEEPSPEED, which this training does not use"),
        ({"distributed_type": "FSDP", "num_processes": 2}, "asks for FSDP"),
        ({"distributed_type": "MULTI_CPU", "num_processes": 3, "num_machines": 2}, "has 3 processes for 2 nodes"),
        ({"distributed_type": "MULTI_CPU", "num_processes": 2, "num_machines": 0}, "has 2 processes for 0 nodes"),
        ({"distributed_type": "MULTI_CPU", "num_processes": 0}, "has 0 processes for 1 nodes"),
        ({"distributed_type": "MULTI_CPU"}, "has -1 processes"),
        ({"distributed_type": "MULTI_CPU", "num_processes": "two"}, "is no configuration of accelerate: .*two"),
    ],
)
def test_files_that_are_not_for_this_training(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        launch_from(accelerate_file(tmp_path, **values))


@pytest.mark.parametrize(
    "content",
    [
        "distributed_type: [MULTI_CPU",
        "",
        "- a list",
        "num_processes: 2",
        "distributed_type: SEVERAL",
        "distributed_type: MULTI_CPU\nnum_processs: 2",
        yaml.safe_dump({"compute_environment": "AMAZON_SAGEMAKER", "distributed_type": "NO"}),
    ],
)
def test_broken_files_are_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"(?s)broken\.yaml is no configuration of accelerate: .+`accelerate config`"):
        launch_from(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*nowhere\.yaml"):
        launch_from(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("option", [{"gpus": 1}, {"cpu_processes": 1}, {"nodes": 1}])
def test_a_file_and_what_it_decides_exclude_each_other(option: dict[str, int], tmp_path: Path) -> None:
    path = accelerate_file(tmp_path, distributed_type="NO", num_processes=1)
    name = f"--{next(iter(option)).replace('_', '-')}"
    with pytest.raises(InputError, match=f"--accelerate-config and {name} exclude each other"):
        launch_of(**{"gpus": None, "cpu_processes": None, **option}, accelerate_config=path)
