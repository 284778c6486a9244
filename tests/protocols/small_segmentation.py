"""A segmentation job of seconds for tests: rooms of a floor and coloured boxes, and recipes of small sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.state import AcceleratorState

from gcbench.data.storage import (
    PreparedDataset,
    describe,
    fingerprint,
    scene_file,
    scene_sha256,
    write_manifest,
    write_scene,
)
from gcbench.protocols.instance import segment_instances
from gcbench.protocols.jobs import InstanceJob, JobRecipe, SegmentationJob, SemanticJob
from gcbench.protocols.semantic import segment
from gcbench.recipe.loader import load_recipe
from gcbench.runs.results import InstanceResult, SemanticResult
from gcbench.runs.store import Run
from gcbench.structures import Scene

FLOOR, CHAIR, TABLE = 1, 4, 6  # of scannet20
SMALL = (
    *("encoder.base_channels=8", "encoder.channels=[8,16]", "encoder.layers=[1,1]", "augmentation.dropout_p=0.0"),
    *("schedule.steps=6", "schedule.batch_size=2", "run.log_every=1", "run.evaluate_every=2", "run.checkpoint_every=1"),
)


class Never:
    """Nobody asks to stop."""

    def __call__(self) -> bool:
        return False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield


class StopAfter(Never):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def room(name: str, seed: int, *, labelled: bool = True, instances: bool = True) -> Scene:
    """A floor of 3 m with two chairs and a table, told apart by their colour."""
    draw = np.random.default_rng(seed)
    floor = np.column_stack([draw.uniform(0, 3, (900, 2)), np.zeros(900)])
    parts, classes, ids = [floor], [np.full(900, FLOOR)], [np.full(900, -1)]
    for number, (kind, corner) in enumerate([(CHAIR, (0.3, 0.3)), (CHAIR, (2.0, 0.4)), (TABLE, (1.1, 1.8))]):
        box = draw.uniform(0, 0.5, (250, 3)) + np.array([*corner, 0.1])
        parts.append(box)
        classes.append(np.full(250, kind))
        ids.append(np.full(250, number))
    segment, instance = np.concatenate(classes), np.concatenate(ids)
    color = np.select([segment == FLOOR, segment == CHAIR], [120, 240], 10)[:, None].repeat(3, axis=1)
    coord = np.concatenate(parts).astype(np.float32)
    return Scene(
        name=name,
        coord=coord,
        color=color.astype(np.uint8),
        normal=np.tile(np.float32([0, 0, 1]), (len(coord), 1)),
        segments={"scannet20": (segment if labelled else np.full_like(segment, -1)).astype(np.int16)},
        instance=instance.astype(np.int32) if instances else None,
    )


def write_rooms(root: Path, *, train: int = 3, **room_options: Any) -> PreparedDataset:
    """A prepared dataset of so many training rooms and one to score."""
    entries = {}
    for number in range(train + 1):
        scene = room(f"scene{number:04d}_00", number, **room_options)
        write_scene(scene_file(root, "scenes", scene.name), scene, {})
        entries[scene.name] = describe(scene, scene_sha256(scene), [])
    splits = {"train": list(entries)[:-1], "val": list(entries)[-1:]}
    header = {"format_version": 1, "layout": "scannet", "synthetic": True, "label_sets": ["scannet20"], "normals": "x"}
    rest = {"splits": splits, "scenes": entries, "notes": [], "fingerprint": fingerprint(entries, splits)}
    write_manifest(root, header | rest)
    return PreparedDataset.open(root)


def job_of(
    kind: str, dataset: PreparedDataset, *overrides: str, limit: str | None = None, label_set: str = "scannet20"
) -> SegmentationJob:
    """A job of kind `semantic` or `instance`."""
    grouping = ("grouping.proposal_minimum=4",) if kind == "instance" else ()
    recipe = JobRecipe.of(
        load_recipe(f"{kind}/scannet", preset="tiny", overrides=(*SMALL, *grouping, *overrides)),
    )
    job_type: type[SegmentationJob] = InstanceJob if kind == "instance" else SemanticJob
    return job_type(
        name="small",
        table="table3",
        row="spunet-scratch",
        column="scannet",
        fold=None,
        recipe=recipe,
        data=dataset.root,
        data_key=dataset.fingerprint,
        label_set=label_set,
        train=("train",),
        val=("val",),
        limit=limit,
        limit_key=None,
        encoder=None,
        encoder_key=None,
        seed=0,
    )


def run_job(
    job: SegmentationJob, folder: Path, stop: Never | None = None
) -> tuple[SemanticResult | InstanceResult, Run, list[dict[str, Any]]]:
    """Run a job in this process; its result, its run, and the events."""
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the first precision of a process
    run = Run(folder, kind=job.kind, name=job.name, key=job.key)
    if run.manifest is None:
        run.queue(job.model_dump(mode="json"))
    events: list[dict[str, Any]] = []
    result: SemanticResult | InstanceResult
    with run.lock():
        if isinstance(job, SemanticJob):
            result = segment(job, run, events.append, stop or Never())
        else:
            result = segment_instances(job, run, events.append, stop or Never())
        run.finish(result)
    return result, run, events
