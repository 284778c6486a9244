"""A pre-training of seconds for tests: a few small scenes with ten frames each, and a recipe of small sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from gcbench.data.arrow_files import read_table, write_batch
from gcbench.data.prepare import prepare_scannet
from gcbench.data.storage import PreparedDataset
from gcbench.protocols.jobs import JobRecipe, PretrainJob
from gcbench.recipe.loader import LoadedRecipe, load_recipe
from gcbench.runs.store import Run
from tests.data.raw_folders import write_scannet

SMALL = (
    *("data.grid_size=0.05", "data.views=2", "data.view_width=32", "data.view_height=24", "data.holdout_every=5"),
    *("data.evaluation_scenes=2", "encoder.base_channels=8", "encoder.channels=[8,8]", "encoder.layers=[1,1]"),
    *("volume.grid=[12,12,8]", "volume.dense_channels=[8]", "volume.norm=group", "gaussians.hidden=8"),
    *("gaussians.feature_channels=4", "gaussians.min_kept=16", "teacher.rows=6"),
    *("schedule.steps=4", "schedule.batch_size=2", "run.log_every=1", "run.evaluate_every=4", "run.checkpoint_every=1"),
)


def write_dataset(folder: Path, *, scenes: int = 3, frames: int = 10) -> PreparedDataset:
    """A prepared dataset of so many training scenes."""
    raw = write_scannet(folder / "raw", train=scenes, val=1, hidden=0, frames=frames)
    return prepare_scannet(raw, folder / "prepared")


def small_recipe(*overrides: str) -> LoadedRecipe:
    """The tiny recipe, smaller still."""
    return load_recipe("pretrain/gaussiancross", preset="tiny", overrides=(*SMALL, *overrides))


def small_job(dataset: PreparedDataset, folder: Path, *overrides: str) -> tuple[PretrainJob, Run]:
    """A queued job and its run."""
    recipe = JobRecipe.of(small_recipe(*overrides))
    job = PretrainJob(name="small", recipe=recipe, data=dataset.root, data_key=dataset.fingerprint, seed=0)
    return job, Run(folder, kind=job.kind, name=job.name, key=job.key).queue(job.model_dump(mode="json"))


def change_frames(dataset: PreparedDataset, scene: str, position: int, **values: Any) -> None:
    """Overwrite columns of one frame of a prepared scene."""
    path = dataset.frames(scene).path
    table, metadata = read_table(path)
    rows = table.to_pylist()
    rows[position].update(values)
    batch = pa.RecordBatch.from_pylist(rows, schema=table.schema)
    write_batch(path, batch, metadata)
