"""What can be said of one scene of a prepared dataset, on its own; `audit.py` puts scenes together.

Shape legend: N points, K classes, H x W pixels. Lengths are metres.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from scipy.spatial import cKDTree

from gcbench.data.frames import FrameSequence
from gcbench.data.labels import label_set_names, load_label_set
from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError
from gcbench.structures import IGNORE_INDEX, Float64Array, Frame, Int16Array, Scene

_UNIT_TOLERANCE = 1e-3  # of a normal's length; float32 gives 1e-6, text with three decimals 1e-3
_FRAMES = 2  # that are projected, per scene
_PIXELS = 2000  # of each
_MILLIMETRES = 1000.0


class LabelCounts(BaseModel):
    """Points per class of one label set in one scene.

    Attributes:
        points: K counts.
        out_of_range: points whose label is neither a class nor -1.
    """

    points: list[int]
    unlabelled: int
    out_of_range: int


class FrameDistance(BaseModel):
    """How far a frame's surface is from the points: median over its pixels; None without usable depth or camera."""

    frame: int
    metres: float | None


class SceneFacts(BaseModel):
    """What was found in one scene.

    Attributes:
        problems: what stopped a part of the check: unreadable files, contents that are not what was prepared.
        not_finite: points whose coordinate is NaN or infinite.
        low, high: corners of the finite points' box; empty if there are none.
        normals_zero, normals_not_finite, normals_not_unit: points; a zero normal is not counted as not unit.
        colorless: True if every point is grey (red = green = blue); one_color: if all have the same colour.
        instances: number of instances; None without instance labels.
        points_sha256: of the coordinates alone.
    """

    name: str
    points: int = 0
    problems: list[str] = Field(default_factory=list)
    not_finite: int = 0
    low: list[float] = Field(default_factory=list)
    high: list[float] = Field(default_factory=list)
    normals: str | None = None
    normals_zero: int = 0
    normals_not_finite: int = 0
    normals_not_unit: int = 0
    colorless: bool = False
    one_color: bool = False
    labels: dict[str, LabelCounts] = Field(default_factory=dict)
    instances: int | None = None
    points_sha256: str = ""
    frames: int = 0
    frames_dropped: int = 0
    distances: list[FrameDistance] = Field(default_factory=list)


@dataclass(frozen=True)
class SceneAudit:
    """The check of one scene, self-contained for a worker process."""

    root: Path
    name: str
    classes: Mapping[str, int]
    hashes: bool = True

    def run(self) -> dict[str, object]:
        """See `SceneJob`; a `SceneFacts` as a dictionary. It never raises a DataError: what is broken is its result."""
        return self.facts().model_dump()

    def facts(self) -> SceneFacts:
        """Read the scene and its frames, and measure them."""
        dataset = open_once(self.root)
        entry = dataset.manifest["scenes"][self.name]
        facts = SceneFacts(
            name=self.name,
            normals=entry.get("normals"),
            frames=dataset.frame_count(self.name),
            frames_dropped=int(entry.get("frames_dropped") or 0),
        )
        try:
            scene = dataset.scene(self.name)
            _measure(scene, self.classes, facts)
            if self.hashes:
                dataset.verify(self.name)
        except DataError as error:
            facts.problems.append(str(error))
        if not facts.low or not facts.frames:
            return facts
        try:
            facts.distances = _distances(dataset.frames(self.name), scene)
        except DataError as error:
            facts.problems += [str(error)] if str(error) not in facts.problems else []
        return facts


def label_set_sizes(names: Sequence[str]) -> dict[str, int]:
    """Label set -> number of classes K, for those that come with the package."""
    known = label_set_names()
    return {name: len(load_label_set(name)) for name in names if name in known}


def frame_distance(frame: Frame, tree: cKDTree) -> FrameDistance:
    """Median distance from a frame's surface points, unprojected with its pose, to the nearest point of the scene."""
    try:
        surface = unproject(frame, _PIXELS)
    except np.linalg.LinAlgError:
        return FrameDistance(frame=frame.index, metres=None)
    if not len(surface) or not np.isfinite(surface).all():
        return FrameDistance(frame=frame.index, metres=None)
    distances, _ = tree.query(surface)
    return FrameDistance(frame=frame.index, metres=float(np.median(distances)))


def unproject(frame: Frame, count: int) -> Float64Array:
    """About `count` surface points [M, 3] of a frame, evenly spread over the image, in the scene's frame.

    Raises:
        numpy.linalg.LinAlgError: the intrinsics cannot be inverted.
    """
    height, width = frame.depth.shape
    step = max(int(np.sqrt(height * width / count)), 1)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    depth = frame.depth[rows, columns].reshape(-1).astype(np.float64) / _MILLIMETRES
    pixels = np.stack([columns.reshape(-1) + 0.5, rows.reshape(-1) + 0.5, np.ones(depth.size)], 1)
    camera = pixels[depth > 0] @ np.linalg.inv(frame.intrinsic).T * depth[depth > 0, None]
    world: Float64Array = camera @ frame.camera_to_world[:3, :3].T + frame.camera_to_world[:3, 3]
    return world


def _distances(frames: FrameSequence, scene: Scene) -> list[FrameDistance]:
    tree = cKDTree(scene.coord[np.isfinite(scene.coord).all(1)])
    positions = sorted({(2 * part + 1) * len(frames) // (2 * _FRAMES) for part in range(_FRAMES)})
    return [frame_distance(frames[position], tree) for position in positions]


@lru_cache(maxsize=1)
def open_once(root: Path) -> PreparedDataset:
    """The dataset; each process reads `dataset.json` once, instead of being sent it with every scene."""
    return PreparedDataset.open(root)


def _measure(scene: Scene, classes: Mapping[str, int], facts: SceneFacts) -> None:
    facts.points = len(scene)
    finite = np.isfinite(scene.coord).all(1)
    facts.not_finite = int(np.count_nonzero(~finite))
    if finite.any():
        whole = scene.coord if finite.all() else scene.coord[finite]
        facts.low, facts.high = whole.min(0).tolist(), whole.max(0).tolist()
    facts.points_sha256 = hashlib.sha256(np.ascontiguousarray(scene.coord).data).hexdigest()
    length = np.sqrt(np.square(scene.normal, dtype=np.float64).sum(1))
    facts.normals_zero = int(np.count_nonzero(length == 0))
    facts.normals_not_finite = int(np.count_nonzero(~np.isfinite(length)))
    off = np.isfinite(length) & (length != 0) & (np.abs(length - 1) > _UNIT_TOLERANCE)
    facts.normals_not_unit = int(np.count_nonzero(off))
    color = scene.color
    if len(scene):
        facts.colorless = bool((color[:, 0] == color[:, 1]).all() and (color[:, 1] == color[:, 2]).all())
        facts.one_color = bool((color == color[0]).all())
    facts.labels = {name: _count(values, classes.get(name)) for name, values in scene.segments.items()}
    if scene.instance is not None:
        facts.instances = int(np.unique(scene.instance[scene.instance >= 0]).size)


def _count(labels: Int16Array, classes: int | None) -> LabelCounts:
    count = classes if classes is not None else int(max(labels.max(initial=IGNORE_INDEX), IGNORE_INDEX)) + 1
    inside = labels[(labels >= 0) & (labels < count)]
    unlabelled = int(np.count_nonzero(labels == IGNORE_INDEX))
    points = np.bincount(inside, minlength=count).tolist()
    return LabelCounts(points=points, unlabelled=unlabelled, out_of_range=len(labels) - len(inside) - unlabelled)
