"""From sparse point features to a dense feature volume in the unit cube (Eq. 6-8).

Shape legend
    N  points of all scenes      B  scenes      C  channels of the point features (d_s)
    X, Y, Z  voxels of the whole cube      x, y, z  voxels of the part that is kept      A = x y z  anchors
    D  channels of the volume (d_o)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gcbench.errors import DataError, InputError
from gcbench.structures import PosedViews

Resolution: TypeAlias = tuple[int, int, int]
Reduction: TypeAlias = Literal["mean", "sum"]
Norm: TypeAlias = Literal["batch", "group"]

_GROUPS = 8


@dataclass(frozen=True)
class UnitCube:
    """The map I of Eq. 6, for one scene: metres to the cube [-0.5, 0.5]^3, with one scale for all three axes.

    The scene's longest extent fills the cube; x and y are centred and the floor lies at z = -0.5.

    Attributes:
        center: [3] metres, the point that maps to (0, 0, 0).
        scale: [] cube units per metre.
    """

    center: Tensor
    scale: Tensor

    @classmethod
    def around(cls, coord: Tensor) -> UnitCube:
        """The cube of a scene's points [N, 3], metres.

        Raises:
            DataError: there are no points, they are not finite, or all of them coincide.
        """
        if not len(coord) or not bool(torch.isfinite(coord).all()):
            raise DataError("A scene without points, or with points that are not finite, has no unit cube.")
        low, high = coord.amin(0), coord.amax(0)
        extent = (high - low).max()
        if not float(extent) > 0:
            raise DataError("All points of a scene coincide; it has no unit cube.", "Check the crop and the mask.")
        center = (low + high) / 2
        center[2] = low[2] + extent / 2
        return cls(center, 1.0 / extent)

    def points(self, coord: Tensor) -> Tensor:
        """Points [..., 3] in cube units."""
        return (coord - self.center) * self.scale

    def metres(self, coord_cube: Tensor) -> Tensor:
        """The inverse of `points`."""
        return coord_cube / self.scale + self.center

    def views(self, views: PosedViews) -> PosedViews:
        """The same views with viewmats and depths in cube units: R p + t becomes R p' + scale (R center + t).

        A point is seen at the same pixel, at its metric depth times `scale`.
        """
        viewmats = views.viewmats.clone()
        viewmats[:, :3, 3] = self.scale * (views.viewmats[:, :3, :3] @ self.center + views.viewmats[:, :3, 3])
        return replace(views, viewmats=viewmats, depths=views.depths * self.scale)


@dataclass(frozen=True)
class SceneVolume:
    """The feature volume of one scene: A anchors, one per voxel, with x slowest and z fastest.

    Attributes:
        features: [A, D], F_d of Eq. 8.
        centers: [A, 3], voxel centres C_v, cube units.
        occupied: [x, y, z] bool, voxels that hold a point.
        edges: [3], the voxel's edge along each axis, cube units.
    """

    features: Tensor
    centers: Tensor
    occupied: Tensor
    edges: Tensor


class DenseVolume(nn.Module):
    """Scatter point features into voxels of the unit cube (Eq. 6, 7) and run a dense 3D CNN over them (Eq. 8).

    Args:
        in_channels: C.
        resolution: (X, Y, Z), voxels of the whole cube. Three equal numbers make cubic voxels.
        widths: output channels of the 3 x 3 x 3 convolutions, each followed by a norm and ReLU; the last is D.
        scatter: how the features of a voxel's points become one.
        crop: keep the box of occupied voxels plus `margin`, instead of the whole cube.
        margin: voxels around the box, cut at the cube.
        norm: ``"batch"`` or ``"group"``. Scenes pass one by one, so either normalises over one scene's voxels; only
            batch norm has running statistics, for evaluation.
        checkpointing: recompute the blocks in the backward pass instead of storing them.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: Resolution,
        widths: Sequence[int],
        *,
        scatter: Reduction = "mean",
        crop: bool = True,
        margin: int = 1,
        norm: Norm = "batch",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if len(resolution) != 3 or min(resolution) < 1 or not widths or min(widths) < 1 or margin < 0:
            raise InputError(
                f"No dense volume has resolution {resolution}, widths {tuple(widths)} and margin {margin}.",
                "Give three voxel counts, at least one width, and a margin >= 0.",
            )
        if scatter not in ("mean", "sum") or norm not in ("batch", "group"):
            raise InputError(
                f"Unknown scatter '{scatter}' or norm '{norm}'.", "scatter: mean, sum; norm: batch, group."
            )
        if norm == "batch" and checkpointing:
            raise InputError(
                "Recomputing a batch norm would count every scene twice in its running statistics.",
                "Use norm 'group' with checkpointing.",
            )
        self.resolution: Resolution = (resolution[0], resolution[1], resolution[2])
        self.scatter: Reduction = scatter
        self.crop, self.margin, self.checkpointing = crop, margin, checkpointing
        self.out_channels = widths[-1]
        sizes = [in_channels, *widths]
        self.blocks = nn.ModuleList(_block(i, o, norm) for i, o in pairwise(sizes))

    @property
    def edges(self) -> tuple[float, float, float]:
        """The voxel's edge along each axis, cube units."""
        X, Y, Z = self.resolution
        return 1.0 / X, 1.0 / Y, 1.0 / Z

    def forward(self, coord: Tensor, features: Tensor, offsets: Tensor) -> tuple[tuple[UnitCube, SceneVolume], ...]:
        """The cube and the volume of every scene.

        Args:
            coord: [N, 3] metres.
            features: [N, C].
            offsets: [B] cumulative number of points.
        """
        sizes = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
        scenes = zip(torch.split(coord, sizes), torch.split(features, sizes), strict=True)
        return tuple(self._scene(*scene) for scene in scenes)

    def _scene(self, coord: Tensor, features: Tensor) -> tuple[UnitCube, SceneVolume]:
        cube = UnitCube.around(coord)
        size = torch.tensor(self.resolution, device=coord.device)
        voxel = torch.minimum(((cube.points(coord) + 0.5) * size).floor().long().clamp(min=0), size - 1)
        low, high = torch.zeros_like(size), size
        if self.crop:
            low = (voxel.amin(0) - self.margin).clamp(min=0)
            high = torch.minimum(voxel.amax(0) + 1 + self.margin, size)
        x, y, z = shape = [int(count) for count in high - low]
        local = voxel - low
        index = (local[:, 0] * y + local[:, 1]) * z + local[:, 2]
        dense, occupied = scatter_features(features, index, x * y * z, self.scatter)
        volume = dense.view(1, x, y, z, -1).permute(0, 4, 1, 2, 3)
        for block in self.blocks:
            volume = checkpoint(block, volume, use_reentrant=False) if self.checkpointing else block(volume)
        steps = torch.meshgrid(*(torch.arange(n, device=coord.device) for n in shape), indexing="ij")
        edges = 1.0 / size.to(features)
        centers = (torch.stack(steps, dim=-1).view(-1, 3) + low + 0.5) * edges - 0.5
        anchors = volume.permute(0, 2, 3, 4, 1).reshape(x * y * z, -1)
        return cube, SceneVolume(anchors, centers, occupied.view(x, y, z), edges)


def scatter_features(features: Tensor, index: Tensor, cells: int, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """Sum or mean of the features [N, C] of each cell [cells, C], zero where empty; and which have any (Eq. 7)."""
    total = features.new_zeros(cells, features.shape[1])
    total = total.scatter_add(0, index[:, None].expand(-1, features.shape[1]), features)
    count = torch.bincount(index, minlength=cells)
    if reduction == "mean":
        total = total / count.clamp(min=1)[:, None]
    return total, count > 0


def dilate(occupied: Tensor, steps: int) -> Tensor:
    """Occupied voxels [x, y, z] and all that lie within `steps` voxels of one along every axis."""
    grown = functional.max_pool3d(occupied[None, None].float(), 2 * steps + 1, stride=1, padding=steps)
    return grown[0, 0] > 0


def _block(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    normalise: nn.Module
    if norm == "batch":
        normalise = nn.BatchNorm3d(out_channels)
    else:
        normalise = nn.GroupNorm(_GROUPS if out_channels % _GROUPS == 0 else 1, out_channels)
    return nn.Sequential(nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False), normalise, nn.ReLU())
