"""Several processes: they learn what one learns, skip a step together, and go on from one checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gcbench.errors import GcbenchError
from gcbench.training.launch import Launch, run_worker

Events = list[dict[str, Any]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains the small network; returns its events."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    def run(name: str, processes: int, events: Events | None = None, **options: Any) -> Events:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "options.json").write_text(json.dumps(options))
        events = [] if events is None else events
        module = "tests.training.processes_worker"
        run_worker(module, folder, folder / "log", events.append, Launch(processes, cpu=True))
        return events

    return run


def assert_same(one: Events, other: Events, keys: set[str]) -> None:
    assert [event["event"] for event in one] == [event["event"] for event in other]
    for left, right in zip(one[:-1], other[:-1], strict=True):
        assert (left.get("step"), left.get("message")) == (right.get("step"), right.get("message"))
        for key in left.keys() & keys:
            assert left[key] == pytest.approx(right[key], rel=1e-4, abs=1e-6)
    assert one[-1]["weights"] == pytest.approx(other[-1]["weights"], rel=1e-4, abs=1e-5)


def test_what_several_compute_is_what_one_computes(start: Any) -> None:
    """Over 50 steps: rates, losses, gradients, statistics and weights, with synchronised batch norm, other numbers of
    labelled points, Lovasz over the whole batch, and a layer that has a gradient in one process only."""
    one, two = start("one", 1, steps=50), start("two", 2, steps=50)
    assert_same(one, two, {"lr", "loss", "grad_norm", "value"})
    steps = [[event for event in events if event["event"] == "step"] for events in (one, two)]
    assert steps[0][-1]["warnings"] == steps[1][-1]["warnings"] == {"odd": 50}
    losses = [event["loss"] for event in steps[0]]
    assert losses[-1] < 0.8 * losses[0]


def test_local_batch_norm_is_another_computation(start: Any) -> None:
    one, two = start("one", 1), start("two", 2, batchnorm="local")
    assert one[-1]["weights"] != pytest.approx(two[-1]["weights"], rel=1e-4)


def test_parts_and_processes_share_a_batch_alike(start: Any) -> None:
    """Batch norm sees a quarter of the batch in both."""
    four, both = start("four", 1, accumulate=4, batchnorm="local"), start("both", 2, accumulate=2, batchnorm="local")
    losses = [[event["loss"] for event in events if event["event"] == "step"] for events in (four, both)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_step_that_is_spoilt_in_one_process_is_skipped_in_all(start: Any) -> None:
    events = start("spoilt", 2, spoil=[[1, 3], [0, 5]])
    told = [event["message"] for event in events if event["event"] == "warning" and event["kind"] == "not-finite"]
    assert len(told) == 1 and told[0].startswith("step 3 was skipped")
    last = [event for event in events if event["event"] == "step"][-1]
    assert last["warnings"]["not-finite"] == 2
    assert all(weight == weight for weight in events[-1]["weights"])  # no NaN


def test_all_processes_keep_their_share_of_a_batch_that_stops_them(start: Any, tmp_path: Path) -> None:
    with pytest.raises(GcbenchError, match="3 steps in a row; step 5 was skipped"):
        start("stopped", 2, spoil=[[1, 3], [1, 4], [1, 5]])
    names = sorted(path.name for path in (tmp_path / "stopped" / "faults").iterdir())
    assert names == [f"step-000000005-process-{rank}.safetensors" for rank in range(2)]
    events = start("stopped", 2)  # the batches are mended: it goes on
    assert events[0] == {"event": "resumed", "step": 4, "total": 6}


def test_a_run_goes_on_with_another_number_of_processes(start: Any, tmp_path: Path) -> None:
    straight = start("straight", 1)
    with pytest.raises(GcbenchError):
        start("moved", 2, spoil=[[0, 3], [0, 4], [0, 5]])
    for path in (tmp_path / "moved" / "checkpoints").glob("step-000000004-*"):
        path.unlink()  # what was skipped before is not the same run
    moved = start("moved", 1)
    assert moved[0]["step"] == 2
    assert moved[-1]["weights"] == pytest.approx(straight[-1]["weights"], rel=1e-4, abs=1e-5)
