"""What training consumes: samples that are a pure function of (seed, sample number).

Neither the number of workers nor a restart changes a sample: sample k belongs to pass k // S over the S scenes, its
scene is that pass's seeded permutation at k % S, and its random numbers are seeded by (seed, k).

Shape legend: N raw points, M voxels, V views, H x W pixels. Lengths are metres. Feature = [colour / 127.5 - 1, normal].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gcbench.data import geometry
from gcbench.data.batching import PointSample, collate, mix3d
from gcbench.data.frames import FrameSequence
from gcbench.data.instances import with_centroids
from gcbench.data.segmentation_points import features, labels_of, take_rows, training_points
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import (
    GeometricAugmentation,
    SegmentationAugmentation,
    block_dropout,
    center_shift,
    dropout,
    random_similarity,
)
from gcbench.data.voxels import grid_sample, voxelize
from gcbench.errors import DataError, InputError
from gcbench.structures import Float32Array, Float64Array, Int32Array, Int64Array, PointBatch, PosedViews, Scene

_SCENE_ORDER, _SAMPLE, _MIX, _HELD_OUT, _PAIR = range(5)  # independent streams of one seed


@dataclass(frozen=True)
class PretrainSample:
    """One scene of a pre-training step: what is left of its points after masking, and V views of all of it."""

    points: PointSample
    views: PosedViews


@dataclass(frozen=True)
class EvaluationSample:
    """One scene, voxelised deterministically.

    Attributes:
        points: the M voxels.
        inverse: [N] int64: ``prediction[inverse]`` goes back to the N raw points (their own voxel's prediction).
        coord: [N, 3] float32, the raw points in the frame of `points.coord` (for 1-nearest-neighbour transfer).
        segment: [N] int64 class indices of all raw points, -1 ignored; None without labels.
    """

    points: PointSample
    inverse: Int64Array
    coord: Float32Array
    segment: Int64Array | None


@dataclass(frozen=True)
class Share:
    """Which samples of every step one process works on, and in how many parts.

    A step's samples are cut into processes x parts pieces of equal size, in order.

    Attributes:
        process: which one, from 0.
        processes: how many share a step.
        parts: how many batches each makes of its share.
    """

    process: int = 0
    processes: int = 1
    parts: int = 1

    def samples(self, number: int, batch_size: int) -> range:
        """The sample numbers of part `number`, counted over all steps: part number % parts of step number // parts.

        Raises:
            InputError: a step cannot be cut evenly.
        """
        pieces = self.processes * self.parts
        if batch_size % pieces:
            raise InputError(f"A batch of {batch_size} cannot be cut into {self.processes} x {self.parts} parts.")
        step, part = divmod(number, self.parts)
        size = batch_size // pieces
        first = step * batch_size + (self.process * self.parts + part) * size
        return range(first, first + size)

    def of(self, rows: torch.Tensor) -> Sequence[torch.Tensor]:
        """This process's parts of the rows of one step, as even as can be."""
        pieces = rows.tensor_split(self.processes * self.parts)
        return pieces[self.process * self.parts : (self.process + 1) * self.parts]


class SegmentationSamples:
    """Augmented, voxelised, cropped training samples: ``samples[k]`` for any k >= 0.

    Args:
        dataset: where the scenes are.
        names: the training scenes.
        label_set: which labels become `segment`, e.g. ``"scannet20"``.
        grid_size: voxel edge, metres.
        crop_points: largest number of voxels of a sample (a sphere around a random one); None takes the scene whole.
        augmentation: all parameters of the transforms.
        seed: with k, decides everything.
        crop_share: instead of `crop_points`, the share of a scene's voxels that stays (instance segmentation).
        labelled: scene -> ids of the vertices whose labels are kept; all others are -1. They survive every dropout,
            voxel, crop and mix (limited annotations). None keeps all labels.
        instance_classes: classes whose instances count: samples get their centroids. None: no instances are wanted.

    Raises:
        DataError: there is no scene, the dataset does not carry the label set, or `labelled` lacks a scene or names
            vertices that it does not have.
        InputError: both crops are given, or the share is not in (0, 1].
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        names: Sequence[str],
        *,
        label_set: str,
        grid_size: float,
        crop_points: int | None,
        augmentation: SegmentationAugmentation,
        seed: int,
        crop_share: float | None = None,
        labelled: Mapping[str, Int64Array | Sequence[int]] | None = None,
        instance_classes: Sequence[int] | None = None,
    ) -> None:
        _check_scenes(dataset, names)
        if crop_share is not None and (crop_points is not None or not 0 < crop_share <= 1):
            raise InputError(f"crop_share is {crop_share}: it must be in (0, 1], and crop_points must be None.")
        if label_set not in dataset.label_sets:
            raise DataError(f"{dataset.root} has no labels '{label_set}'.", f"It has: {', '.join(dataset.label_sets)}.")
        self.dataset = dataset
        self.names = tuple(names)
        self.label_set = label_set
        self.grid_size = grid_size
        self.crop = crop_points if crop_share is None else float(crop_share)
        self.augmentation = augmentation
        self.seed = seed
        self.labelled = None if labelled is None else {name: _labelled(dataset, name, labelled) for name in names}
        self.instance_classes = instance_classes

    def __len__(self) -> int:
        """Samples of one pass."""
        return len(self.names)

    def __getitem__(self, number: int) -> PointSample:
        scene = self.dataset.scene(self.names[scene_of_sample(len(self.names), self.seed, number)])
        sample = training_points(
            scene,
            label_set=self.label_set,
            grid_size=self.grid_size,
            crop=self.crop,
            augmentation=self.augmentation,
            rng=_generator(self.seed, _SAMPLE, number),
            labelled=None if self.labelled is None else self.labelled[scene.name],
        )
        return sample if self.instance_classes is None else with_centroids(sample, self.instance_classes)


class SegmentationBatches:
    """Collated training batches: ``batches[n]`` is part n of a `Share`, and is mixed with its probability.

    All parts of a step are mixed or none; pairs are the same in all shares whose parts hold an even number of scenes.

    Args:
        samples: where the samples come from.
        batch_size: scenes per step, before mixing.
        mix3d_p: probability of merging a part's scenes in pairs (Mix3D).
        share: whose parts.
    """

    def __init__(
        self, samples: SegmentationSamples, *, batch_size: int, mix3d_p: float, share: Share | None = None
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.mix3d_p = mix3d_p
        self.share = share or Share()

    def __getitem__(self, number: int) -> PointBatch:
        numbers, seed = self.share.samples(number, self.batch_size), self.samples.seed
        batch = collate([self.samples[k] for k in numbers])
        if _generator(seed, _MIX, numbers.start // self.batch_size).random() >= self.mix3d_p:
            return batch
        pairs = (_generator(seed, _PAIR, k) for k in numbers[::2])
        return mix3d(batch, pairs, keep_labelled=self.samples.labelled is not None)


def evaluation_sample(
    scene: Scene, *, grid_size: float, label_set: str, labelled: Int64Array | None = None
) -> EvaluationSample:
    """One scene as it is, voxelised with the first point of each voxel, in the frame training uses (centre shift).

    Args:
        scene: the scene.
        grid_size: voxel edge, metres.
        label_set: which labels become `segment`.
        labelled: ids of the only points with a label, ascending (limited annotations): each is taken for its voxel.
            None: all points keep their labels.

    Raises:
        DataError: the scene has labels, but not those.
    """
    _check_labels(scene, label_set)
    coord = geometry.move_points(center_shift(scene.coord, apply_z=True), scene.coord)
    voxels = grid_sample(coord, grid_size, None)
    index = voxels.index
    if labelled is not None:
        index = index.copy()
        index[voxels.inverse[labelled]] = labelled
    points = _points_of(scene, coord, index, voxels.grid_coord, label_set, labelled)
    return EvaluationSample(points, voxels.inverse, coord, labels_of(scene, label_set, np.arange(len(scene))))


def evaluation_fragments(
    scene: Scene, *, grid_size: float, label_set: str, matrix: Float64Array | None = None
) -> Iterator[tuple[Int64Array, PointSample]]:
    """The fragments of one scene, made one by one: with each the M raw points it predicts (test, "precise").

    Every point is in at least one fragment (see `Voxels.fragments`); all fragments share voxels and frame.

    Args:
        scene: the scene.
        grid_size: voxel edge, metres.
        label_set: which labels become `segment`.
        matrix: [4, 4], a similarity applied after the centre shift (test-time augmentation); normals turn with it.

    Raises:
        DataError: the scene has labels, but not those.
    """
    _check_labels(scene, label_set)
    moved = np.eye(4) if matrix is None else matrix
    moved = moved @ center_shift(scene.coord, apply_z=True)
    coord = geometry.move_points(moved, np.asfortranarray(scene.coord))
    voxels = voxelize(coord, grid_size)
    turned = replace(scene, normal=geometry.move_normals(moved, scene.normal))
    grid_coord = voxels.grid_coord(voxels.first())
    for index in voxels.fragments():
        points = _points_of(turned, coord, index, grid_coord, label_set)
        shift = center_shift(points.coord, apply_z=False)
        yield index, replace(points, coord=geometry.move_points(shift, points.coord))


class PretrainSamples:
    """Masked points and posed views of pre-training (Eq. 4; Sec. 4.1): ``samples[k]`` for any k >= 0.

    Args:
        dataset: a dataset with RGB-D frames.
        names: the scenes.
        grid_size: voxel edge, metres.
        mask_ratio: share of the points dropped before grid sampling (Eq. 4).
        mask_block: 0 drops single points; above 0, whole blocks of that edge in metres.
        views: V, views per sample, drawn from the frames that are not held out (without repeats while they last).
        view_size: (width, height) of the views, pixels.
        holdout_every: every n-th frame, by position, is never trained on; 0 holds none out.
        augmentation: similarities that move points and cameras together.
        seed: with k, decides everything.

    Raises:
        DataError: there is no scene, or a scene has no frame to train on.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        names: Sequence[str],
        *,
        grid_size: float,
        mask_ratio: float,
        mask_block: float,
        views: int,
        view_size: tuple[int, int],
        holdout_every: int,
        augmentation: GeometricAugmentation,
        seed: int,
    ) -> None:
        _check_scenes(dataset, names)
        for name in names:
            if not split_frames(dataset.frame_count(name), holdout_every)[0]:
                raise DataError(
                    f"Scene '{name}' of {dataset.root} has {dataset.frame_count(name)} RGB-D frames: none to train on.",
                    "Prepare the dataset with exported frames, or leave the scene out.",
                )
        self.dataset = dataset
        self.names = tuple(names)
        self.grid_size = grid_size
        self.mask_ratio = mask_ratio
        self.mask_block = mask_block
        self.views = views
        self.view_size = view_size
        self.holdout_every = holdout_every
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Samples of one pass."""
        return len(self.names)

    def __getitem__(self, number: int) -> PretrainSample:
        name = self.names[scene_of_sample(len(self.names), self.seed, number)]
        rng = _generator(self.seed, _SAMPLE, number)
        scene = self.dataset.scene(name)
        matrix = random_similarity(scene.coord, self.augmentation, rng)
        points = self._points(scene, matrix, self.mask_ratio, rng)
        frames = self.dataset.frames(name)
        positions = split_frames(len(frames), self.holdout_every)[0]
        drawn = rng.choice(positions, size=self.views, replace=len(positions) < self.views)
        return PretrainSample(points, load_views(frames, drawn.tolist(), self.view_size, matrix))

    def heldout_views(self, name: str, *, masked: bool = False, max_views: int | None = None) -> PretrainSample:
        """A scene's held-out views and its points, neither of them augmented; the same at every call.

        Args:
            name: the scene.
            masked: drop points as in training (seeded by `seed`); False keeps all and takes the first of each voxel.
            max_views: at most that many views, evenly spaced; None takes all.

        Raises:
            DataError: the scene holds no frame out.
        """
        scene, frames = self.dataset.scene(name), self.dataset.frames(name)
        positions = split_frames(len(frames), self.holdout_every)[1]
        if not positions:
            raise DataError(
                f"Scene '{name}' has {len(frames)} frames: with every {self.holdout_every}th held out, none."
            )
        if max_views is not None and len(positions) > max_views:
            positions = [positions[i] for i in np.linspace(0, len(positions) - 1, max_views).round().astype(int)]
        rng = _generator(self.seed, _HELD_OUT, 0) if masked else None
        points = self._points(scene, np.eye(4), self.mask_ratio if masked else 0.0, rng)
        return PretrainSample(points, load_views(frames, positions, self.view_size, np.eye(4)))

    def _points(
        self, scene: Scene, matrix: Float64Array, mask_ratio: float, rng: np.random.Generator | None
    ) -> PointSample:
        kept = np.arange(len(scene))
        if mask_ratio > 0 and rng is not None:
            if self.mask_block > 0:
                kept = block_dropout(scene.coord, ratio=mask_ratio, block_size=self.mask_block, rng=rng)
            else:
                kept = dropout(len(scene), ratio=mask_ratio, rng=rng)
        coord = geometry.move_points(matrix, take_rows(scene.coord, kept))
        voxels = voxelize(coord, self.grid_size)
        index = voxels.first() if rng is None else rng.permutation(voxels.draw(rng))
        source = kept[index]
        normal = geometry.move_normals(matrix, take_rows(scene.normal, source))
        return PointSample(
            name=scene.name,
            coord=coord[index],
            grid_coord=voxels.grid_coord(index),
            feat=features(take_rows(scene.color, source).astype(np.float32), normal),
        )


def split_frames(count: int, holdout_every: int) -> tuple[list[int], list[int]]:
    """Positions 0 .. count - 1 of the training frames and of the held-out ones (every n-th; 0 holds none out).

    Raises:
        InputError: every frame would be held out.
    """
    if holdout_every < 0 or holdout_every == 1:
        raise InputError(f"holdout_every is {holdout_every}; it must be 0 (none) or at least 2.")
    held_out = [p for p in range(count) if holdout_every and p % holdout_every == holdout_every - 1]
    return [p for p in range(count) if p not in set(held_out)], held_out


def load_views(
    frames: FrameSequence, positions: Sequence[int], size: tuple[int, int], matrix: Float64Array
) -> PosedViews:
    """The frames at `positions` as V views of (width, height), seen by cameras that moved with the points.

    Args:
        frames: the frames of a scene.
        positions: V positions in `frames`.
        size: (width, height) of the views.
        matrix: [4, 4], the similarity that moved the points (identity: unmoved).
    """
    loaded = [frames.resized(position, size) for position in positions]
    viewmats = geometry.move_cameras(matrix, np.linalg.inv(np.stack([frame.camera_to_world for frame in loaded])))
    metres = np.stack([frame.depth for frame in loaded]).astype(np.float32) / np.float32(1000)
    depths = geometry.move_depths(matrix, metres)
    return PosedViews(
        colors=torch.from_numpy(np.stack([frame.color for frame in loaded])).float() / 255,
        depths=torch.from_numpy(depths),
        viewmats=torch.from_numpy(viewmats.astype(np.float32)),
        Ks=torch.from_numpy(np.stack([frame.intrinsic for frame in loaded]).astype(np.float32)),
        frame_ids=tuple(frame.index for frame in loaded),
    )


def scene_of_sample(scenes: int, seed: int, number: int) -> int:
    """Which of `scenes` scenes sample `number` takes: every pass is a seeded permutation of all of them."""
    if number < 0:
        raise IndexError(f"Sample numbers start at 0, got {number}.")
    return int(_generator(seed, _SCENE_ORDER, number // scenes).permutation(scenes)[number % scenes])


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, stream, number))


def _check_scenes(dataset: PreparedDataset, names: Sequence[str]) -> None:
    if not names:
        raise DataError(f"No scene of {dataset.root} was chosen.", "Check the splits: `dataset.json` lists them.")
    for name in names:
        dataset.point_count(name)


def _check_labels(scene: Scene, label_set: str) -> None:
    if scene.segments and label_set not in scene.segments:
        raise DataError(f"Scene '{scene.name}' has no labels '{label_set}'.", f"It has: {', '.join(scene.segments)}.")


def _labelled(dataset: PreparedDataset, name: str, labelled: Mapping[str, Int64Array | Sequence[int]]) -> Int64Array:
    if name not in labelled:
        raise DataError(f"The limited annotations have no scene '{name}'.", "Take lists made for these scenes.")
    ids, count = np.unique(np.asarray(labelled[name], dtype=np.int64)), dataset.point_count(name)
    if len(ids) and not 0 <= ids[0] <= ids[-1] < count:
        raise DataError(
            f"The limited annotations of scene '{name}' name vertices {ids[0]} to {ids[-1]}; it has {count}.",
            "Take lists made for this release of the dataset.",
        )
    return ids


def _points_of(
    scene: Scene,
    coord: Float32Array,
    index: Int64Array,
    grid_coord: Int32Array,
    label_set: str,
    labelled: Int64Array | None = None,
) -> PointSample:
    return PointSample(
        name=scene.name,
        coord=np.ascontiguousarray(take_rows(coord, index)),
        grid_coord=grid_coord,
        feat=features(take_rows(scene.color, index).astype(np.float32), take_rows(scene.normal, index)),
        segment=labels_of(scene, label_set, index, labelled),
        instance=None if scene.instance is None else scene.instance[index].astype(np.int64),
    )
