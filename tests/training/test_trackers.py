"""Trackers: which are used, what TensorBoard gets, and that a resumed run hides what it does again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcbench.errors import InputError
from gcbench.training.trackers import TRACKERS_VARIABLE, Trackers, tracker_names


def test_tensorboard_unless_something_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACKERS_VARIABLE, raising=False)
    assert tracker_names() == ("tensorboard",)
    monkeypatch.setenv(TRACKERS_VARIABLE, "")
    assert tracker_names() == () == tracker_names([])
    assert tracker_names(["tensorboard"]) == ("tensorboard",)  # what is asked for comes first


def test_names_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, " tensorboard ,, tensorboard")
    assert tracker_names() == ("tensorboard",)


def test_what_cannot_be_used_is_told_with_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"no tracker 'stone-tablet' here\. Those that can be used: .*tensorboard.*; others after installing"
    with pytest.raises(InputError, match=message):
        tracker_names(["tensorboard", "stone-tablet"])
    monkeypatch.setattr("gcbench.training.trackers.get_available_trackers", list)
    with pytest.raises(InputError, match=r"no tracker 'tensorboard' here\. Those that can be used: none;"):
        tracker_names(["tensorboard"])


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """One of its own, as trackers stay with it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """Steps and values as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(scalar.step, scalar.value) for scalar in events.Scalars(name)] if name in events.Tags()["scalars"] else []


def log(accelerator: Accelerator, trackers: Trackers, done: int, values: dict[int, float]) -> None:
    trackers.start(accelerator, done)
    for step, value in values.items():
        accelerator.log({"train/loss": value}, step=step)
    accelerator.end_training()


def test_a_resumed_run_shows_each_step_once(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACKERS_VARIABLE, raising=False)
    trackers = Trackers(tmp_path, "run", {"lr": 0.1})
    log(accelerator, trackers, 0, {1: 4.0, 2: 3.0, 3: 9.0})
    assert curve(tmp_path, "train/loss") == [(1, 4.0), (2, 3.0), (3, 9.0)]
    log(accelerator, trackers, 2, {3: 2.0, 4: 1.0})  # from the checkpoint of step 2
    assert curve(tmp_path, "train/loss") == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert all(path.is_file() for path in (tmp_path / "tensorboard").iterdir())  # no folder for each start


def test_none_makes_no_folder(accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, "")
    log(accelerator, Trackers(tmp_path, "run", {}), 0, {1: 4.0})
    assert accelerator.trackers == [] and list(tmp_path.iterdir()) == []


class Service(GeneralTracker):
    """A tracker that remembers what it is told."""

    name = "service"
    requires_logging_directory = False
    tracker = None

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.values: list[tuple[int | None, dict[str, float]]] = []

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None, **options: Any) -> None:
        self.values.append((step, values))


def test_a_service_is_told_the_recipe_in_plain_values(
    accelerator: Accelerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service()
    monkeypatch.setattr("gcbench.training.trackers.tracker_names", lambda: (service,))
    log(accelerator, Trackers(tmp_path, "run", {"lr": 0.1, "steps": 3, "frozen": False, "grid": [1, 2]}), 0, {1: 4.0})
    assert service.config == {"lr": 0.1, "steps": 3, "frozen": False, "grid": "[1, 2]"}
    assert service.values == [(1, {"train/loss": 4.0})]
