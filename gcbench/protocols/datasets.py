"""Making synthetic rooms, and preparing raw data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gcbench.protocols.jobs import PrepareJob, RoomsJob
from gcbench.recipe.schema import RoomsRecipe

if TYPE_CHECKING:
    from gcbench.training.loop import Report  # imports torch


def make_rooms(job: RoomsJob, report: Report) -> dict[str, Any]:
    """Make the rooms of a `RoomsJob`; rooms that are whole are kept."""
    from gcbench.data.synthetic_rooms import generate_rooms

    recipe = job.recipe.build()
    assert isinstance(recipe, RoomsRecipe)
    rooms = recipe.scannet if job.layout == "scannet" else recipe.s3dis
    generate_rooms(
        job.out,
        layout=job.layout,
        scenes=rooms.scenes,
        val=rooms.val,
        seed=rooms.seed,
        frames=rooms.frames,
        frame_size=(rooms.frame_width, rooms.frame_height),
        on_room=_counter(report, rooms.scenes + rooms.val),
    )
    return {"rooms": rooms.scenes + rooms.val}


def prepare(job: PrepareJob, report: Report) -> dict[str, Any]:
    """Prepare the dataset of a `PrepareJob`, with its data-efficient sets; scenes that are whole are kept."""
    from gcbench.data.prepare import prepare_s3dis, prepare_scannet
    from gcbench.data.storage import PreparedDataset
    from gcbench.data.subsets import draw

    step = prepare_scannet if job.layout == "scannet" else prepare_s3dis
    step(
        job.raw,
        job.out,
        on_scene=lambda name, done, total: report({"event": "progress", "step": done, "total": total, "phase": name}),
    )
    dataset = PreparedDataset.open(job.out)
    if job.layout == "scannet":
        draw(dataset, 0)
    return {"scenes": sum(map(len, dataset.splits.values())), "fingerprint": dataset.fingerprint}


def _counter(report: Report, total: int) -> Callable[[str], None]:
    done = 0

    def count(name: str) -> None:
        nonlocal done
        done += 1
        report({"event": "progress", "step": done, "total": total, "phase": name})

    return count
