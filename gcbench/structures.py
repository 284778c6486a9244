"""The typed values that the packages hand to each other. Importing this module imports no torch.

Shape legend
    N  points            B  scenes of a batch       V  views            G  Gaussians
    H, W  pixels         C  input channels (6: colour, normal)          F  channels of a Gaussian's feature

Units and conventions
    Lengths are metres unless a name ends in `_cube` (unit-cube units). Cameras are world-to-camera with OpenCV axes
    (x right, y down, z forward); pixel centres lie at + 0.5. Quaternions are (w, x, y, z). Class indices are
    0 .. K - 1, and -1 is "not labelled".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, device

IGNORE_INDEX = -1

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
UInt16Array = NDArray[np.uint16]
Int16Array = NDArray[np.int16]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]

_T = TypeVar("_T", "PointBatch", "PosedViews", "Gaussians")


@dataclass(frozen=True)
class LabelSet:
    """The classes one number is measured on. Read from `evaluation/labels/*.yaml`.

    Attributes:
        name: e.g. ``"scannet20"``.
        dataset: ``"scannet"`` or ``"s3dis"``.
        classes: class names; a class index is a position in this tuple.
        ids: the raw id of each class in the dataset's own files (nyu40id, ScanNet200 id, or 0 .. 12).
        groups: named subsets of class indices (``head``, ``common``, ``tail`` for ScanNet200), else empty.
    """

    name: str
    dataset: str
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Scene:
    """One room, as every reader yields it and as the prepared dataset stores it.

    Attributes:
        name: e.g. ``"scene0000_00"`` or ``"Area_1/office_1"``.
        coord: [N, 3] float32, metres, z up, unaligned as in the raw files.
        color: [N, 3] uint8, RGB.
        normal: [N, 3] float32, unit length (0 where undefined).
        segments: class indices per label set, e.g. ``{"scannet20": [N] int16, "scannet200": [N] int16}``; -1 is
            unlabelled. Empty for scenes without labels (hidden test).
        instance: [N] int32, instance id or -1; None without labels.
    """

    name: str
    coord: Float32Array
    color: UInt8Array
    normal: Float32Array
    segments: Mapping[str, Int16Array] = field(default_factory=dict)
    instance: Int32Array | None = None

    def __len__(self) -> int:
        return len(self.coord)


@dataclass(frozen=True)
class Frame:
    """One posed RGB-D frame of a scene, decoded.

    Attributes:
        index: the frame's number in the recording.
        color: [H, W, 3] uint8, resized to the depth camera.
        depth: [H, W] uint16, millimetres; 0 is no measurement.
        camera_to_world: [4, 4] float64.
        intrinsic: [3, 3] float64, pixels, of the depth camera at this size.
    """

    index: int
    color: UInt8Array
    depth: UInt16Array
    camera_to_world: Float64Array
    intrinsic: Float64Array


@dataclass(frozen=True)
class PointBatch:
    """Voxelised points of B scenes, one after the other.

    Attributes:
        coord: [N, 3] float32, metres, after augmentation.
        grid_coord: [N, 3] int32, voxel coordinates, >= 0 per scene.
        feat: [N, C] float32, network input.
        offsets: [B] int64, cumulative number of points: scene b is ``offsets[b - 1] : offsets[b]``.
        segment: [N] int64 class indices, -1 ignored; None without labels.
        centroid: [N, 3] float32, metres, of each point's instance, NaN where it has none; None without instances.
        names: the B scene names.
    """

    coord: Tensor
    grid_coord: Tensor
    feat: Tensor
    offsets: Tensor
    segment: Tensor | None = None
    centroid: Tensor | None = None
    names: tuple[str, ...] = ()

    def to(self, target: device | str) -> PointBatch:
        return _to(self, target)

    def pin_memory(self) -> PointBatch:
        """The same in pinned memory."""
        return _pinned(self)


@dataclass(frozen=True)
class PosedViews:
    """V views of one scene, in the frame of that scene's augmented points.

    Attributes:
        colors: [V, H, W, 3] float32 in [0, 1].
        depths: [V, H, W] float32, camera-space z in the same unit as `viewmats`; 0 is no measurement.
        viewmats: [V, 4, 4] float32, world-to-camera, rigid (scalings of the scene are in `depths` and translations).
        Ks: [V, 3, 3] float32, pixels.
        frame_ids: the V frame numbers.
    """

    colors: Tensor
    depths: Tensor
    viewmats: Tensor
    Ks: Tensor
    frame_ids: tuple[int, ...] = ()

    def to(self, target: device | str) -> PosedViews:
        return _to(self, target)

    def pin_memory(self) -> PosedViews:
        """The same in pinned memory."""
        return _pinned(self)


@dataclass(frozen=True)
class Gaussians:
    """G anisotropic Gaussians (Eq. 9-13).

    Attributes:
        means: [G, 3], in the renderer's unit: unit-cube units, or metres where the anchors are points.
        quats: [G, 4], (w, x, y, z), need not be normalised.
        scales: [G, 3], > 0, standard deviations along the local axes, in the unit of the means.
        opacities: [G] in [0, 1].
        colors: [G, 3] in [0, 1].
        features: [G, F].
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    features: Tensor

    def __len__(self) -> int:
        return int(self.means.shape[0])

    def to(self, target: device | str) -> Gaussians:
        return _to(self, target)


def _to(value: _T, target: device | str) -> _T:
    moved: dict[str, Any] = {}
    for item in fields(value):
        content = getattr(value, item.name)
        if hasattr(content, "to"):
            # a copy from pinned memory need not be waited for
            moved[item.name] = content.to(target, non_blocking=True) if _is_pinned(content) else content.to(target)
    return replace(value, **moved)


def _is_pinned(content: Any) -> bool:
    return hasattr(content, "is_pinned") and bool(content.is_pinned())


def _pinned(value: _T) -> _T:
    named = {item.name: getattr(value, item.name) for item in fields(value)}
    return replace(value, **{name: one.pin_memory() for name, one in named.items() if hasattr(one, "pin_memory")})
