"""What must hold before a pre-training starts; everything that is wrong is told at once. No image is decoded.

Shape legend: F frames of a scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from gcbench.data.arrow_files import read_table
from gcbench.data.frame_images import IMAGE_ERRORS
from gcbench.data.frames import FrameSequence, pose_defect
from gcbench.data.samples import split_frames
from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError
from gcbench.recipe.schema import PretrainRecipe
from gcbench.structures import Float64Array, Int32Array

_SHOWN = 10

OnScene = Callable[[str, int, int], None]


@dataclass
class Findings:
    """What is wrong with the data of a pre-training.

    Attributes:
        problems: each names its scene, and frame where it is one's.
        ways_out: what to do about them.
        warnings: what can stay as it is.
    """

    problems: list[str] = field(default_factory=list)
    ways_out: dict[str, None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def add(self, problem: str, way_out: str) -> None:
        """A problem and its way out; the same way out is told once."""
        self.problems.append(problem)
        self.ways_out[way_out] = None

    def raise_if_any(self) -> None:
        """Raises DataError with the first ten problems and the number of the others."""
        if not self.problems:
            return
        more = len(self.problems) - _SHOWN
        lines = [*self.problems[:_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
        if len(lines) == 1:
            raise DataError(lines[0], " ".join(self.ways_out))
        listed = "\n".join(f"  - {line}" for line in lines)
        raise DataError(f"The data cannot be trained on:\n{listed}\n", " ".join(self.ways_out))


def check_batch(batch_size: int, processes: int, parts: int = 1) -> None:
    """Raises InputError if a batch cannot be shared evenly by the processes, each in so many parts."""
    pieces = processes * parts
    if batch_size % pieces:
        cut = f" in {parts} parts each (run.accumulate)" if parts > 1 else ""
        raise InputError(
            f"schedule.batch_size is {batch_size}: {processes} process{'es' if processes > 1 else ''}{cut} cannot "
            "share it evenly.",
            f"Choose a multiple, e.g. --set schedule.batch_size={-(-batch_size // pieces) * pieces}, "
            "or another number of processes.",
        )


def check_data(recipe: PretrainRecipe, dataset: PreparedDataset, on_scene: OnScene | None = None) -> Findings:
    """Look at the frame tables of all training scenes: numbers of frames, cameras, and the headers of the images.

    Args:
        recipe: what is to be trained.
        dataset: on what.
        on_scene: told name, number and count of the scenes.

    Raises:
        DataError: the dataset has no such split, no scene in it, or a frame file is missing or broken.
    """
    findings = Findings()
    if dataset.layout != recipe.data.dataset:
        findings.add(
            f"{dataset.root} is prepared from {dataset.layout}, the recipe wants {recipe.data.dataset}.",
            f"Give data of {recipe.data.dataset}, or say --set data.dataset={dataset.layout} if this is meant.",
        )
    names = dataset.scene_names(recipe.data.splits)
    if not names:
        findings.add(f"{dataset.root} has no scene in {', '.join(recipe.data.splits)}.", "Use other --set data.splits.")
    small = []
    for number, name in enumerate(names, start=1):
        evaluated = number <= recipe.data.evaluation_scenes
        if _enough_frames(findings, recipe, dataset, name, evaluated):
            size = _check_frames(findings, dataset, name)
            if size is not None and (size[0] < recipe.data.view_width or size[1] < recipe.data.view_height):
                small.append((name, size))
        if on_scene is not None:
            on_scene(name, number, len(names))
    if small:
        (name, size), wanted = small[0], f"{recipe.data.view_width} x {recipe.data.view_height}"
        findings.warnings.append(
            f"Views of {wanted} pixels are enlarged: the frames of {len(small)} scenes are smaller "
            f"(first: {name}, {size[0]} x {size[1]})."
        )
    return findings


def _enough_frames(
    findings: Findings, recipe: PretrainRecipe, dataset: PreparedDataset, name: str, evaluated: bool
) -> bool:
    """Whether the scene has points and frames; too few of them are a problem."""
    wanted, every = recipe.data.views, recipe.data.holdout_every
    if not dataset.point_count(name):
        findings.add(f"Scene '{name}' has no points.", "Leave scenes without points out of the splits.")
    count = dataset.frame_count(name)
    trained, heldout = (len(part) for part in split_frames(count, every))
    if not count:
        findings.add(
            f"Scene '{name}' has no RGB-D frames.", "Prepare scenes with their frames, or leave them out of the splits."
        )
    elif trained < wanted:
        findings.add(
            f"Scene '{name}' has {trained} frames to train on (of {count}, every {every}th is held out), fewer than "
            f"data.views = {wanted}.",
            "Draw fewer views per scene, e.g. "
            f"--set data.views={_fewest_frames(recipe, dataset)}, or leave such scenes out of the splits.",
        )
    elif evaluated and not heldout:
        findings.add(
            f"Scene '{name}' has {count} frames: with data.holdout_every = {every} none is held out to measure on.",
            f"Hold out more, e.g. --set data.holdout_every={max(count, 2)}.",
        )
    return count > 0


def _fewest_frames(recipe: PretrainRecipe, dataset: PreparedDataset) -> int:
    counts = [dataset.frame_count(name) for name in dataset.scene_names(recipe.data.splits)]
    return max(min(len(split_frames(count, recipe.data.holdout_every)[0]) for count in counts if count), 1)


def _check_frames(findings: Findings, dataset: PreparedDataset, name: str) -> tuple[int, int] | None:
    """Cameras and image sizes of one scene; the smallest (width, height) of its frames."""
    again = "Prepare the dataset again, or leave such scenes out of the splits."
    try:
        frames = dataset.frames(name)
        poses, intrinsics, sizes = frames.cameras()
    except DataError as error:
        findings.add(error.message, error.way_out)
        return None
    for position, reason in _defects(frames, poses, intrinsics, sizes):
        findings.add(f"Scene '{name}', frame {frames.indices[position]}: {reason}.", again)
    smallest = sizes.min(axis=0)
    return int(smallest[0]), int(smallest[1])


def _defects(
    frames: FrameSequence, poses: Float64Array, intrinsics: Float64Array, sizes: Int32Array
) -> Iterator[tuple[int, str]]:
    """(position, what is wrong) of the frames of one scene.

    Args:
        frames: F frames.
        poses: [F, 4, 4] camera-to-world.
        intrinsics: [F, 3, 3] pixels.
        sizes: [F, 2] width, height.
    """
    columns = read_table(frames.path)[0]
    for position in range(len(frames)):
        size = (int(sizes[position, 0]), int(sizes[position, 1]))
        pose, intrinsic = poses[position], intrinsics[position]
        if defect := pose_defect(pose):
            yield position, f"its pose is singular or not rigid ({defect})"
        if not _is_intrinsic(intrinsic, size):
            yield position, f"these are no intrinsics of a camera of {size[0]} x {size[1]} pixels: {intrinsic.tolist()}"
        for what in ("color", "depth"):
            found = _image_size(columns[what][position].as_buffer())
            if found is None:
                yield position, f"its {what} image is broken"
            elif found != size:
                yield (
                    position,
                    f"its {what} image is {found[0]} x {found[1]} pixels, the frame {size[0]} x {size[1]}",
                )


def _is_intrinsic(matrix: Float64Array, size: Sequence[int]) -> bool:
    """fx 0 cx, 0 fy cy, 0 0 1 with positive focal lengths and the principal point inside the image."""
    if not np.isfinite(matrix).all() or (matrix[2] != (0, 0, 1)).any():
        return False
    return bool((np.diag(matrix)[:2] > 0).all() and (matrix[:2, 2] > 0).all() and (matrix[:2, 2] < size).all())


def _image_size(content: Any) -> tuple[int, int] | None:
    """(width, height) by the header of an image, None where it cannot be read. The rest of it is not touched."""
    try:
        with Image.open(pa.BufferReader(content), formats=("JPEG", "PNG")) as image:
            return image.size
    except IMAGE_ERRORS:
        return None
