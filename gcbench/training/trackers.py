"""Accelerate's trackers: TensorBoard by default, others by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers

from gcbench.errors import InputError

TRACKERS_VARIABLE = "GCBENCH_TRACKERS"
"""Names separated by commas; empty for none."""


@dataclass(frozen=True)
class Trackers:
    """Which trackers log a run.

    Attributes:
        folder: of the run; TensorBoard writes into its folder `tensorboard`.
        name: of the run, for services that show several.
        config: what the run was made with, by name; shown by trackers that show it.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]

    def start(self, accelerator: Accelerator, done: int) -> None:
        """Open them; what TensorBoard has of steps after `done` is hidden.

        Raises:
            InputError: a tracker is unknown, or its package is not installed.
        """
        names = tracker_names()
        if not names:
            return
        board = TensorBoardTracker("tensorboard", self.folder, purge_step=done + 1 if done else None)
        accelerator.log_with = [board if name == "tensorboard" else name for name in names]
        accelerator.project_configuration.set_directories(str(self.folder))
        accelerator.init_trackers("gcbench", init_kwargs={"wandb": {"name": self.name, "dir": str(self.folder)}})
        for tracker in accelerator.trackers:
            if tracker.name != "tensorboard":  # it would make a further folder at every start
                tracker.store_init_configuration(_plain(self.config))


def tracker_names(wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """The trackers to use: `wanted`, else those of the environment, else TensorBoard.

    Raises:
        InputError: one is unknown, or its package is not installed.
    """
    if wanted is None:
        wanted = os.environ.get(TRACKERS_VARIABLE, "tensorboard").split(",")
    names = tuple(dict.fromkeys(name.strip() for name in wanted if name.strip()))
    there = [str(getattr(kind, "value", kind)) for kind in get_available_trackers()]
    for name in names:
        if name not in there:
            raise InputError(
                f"There is no tracker '{name}' here.",
                f"Those that can be used: {', '.join(there) or 'none'}; others after installing their package.",
            )
    return names


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values that every tracker can show."""
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()}
