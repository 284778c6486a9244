"""From sparse point features to a dense feature volume in the unit cube (Eq. 6-8).

Shape legend
    N  points of a scene, or of all scenes      B  scenes      C  channels of the point features (d_s)
    X, Y, Z  voxels of the whole cube      x, y, z  voxels of the part that is kept      A = x y z  anchors
    M  voxels that hold a point      D  channels of the volume (d_o)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gcbench.errors import InputError
from gcbench.models.anchors import SceneAnchors, UnitCube, split_scenes
from gcbench.models.sparse_cpu import convolve_occupied

Resolution: TypeAlias = tuple[int, int, int]
Reduction: TypeAlias = Literal["mean", "sum"]
Norm: TypeAlias = Literal["batch", "group"]

_GROUPS = 8


@dataclass(frozen=True)
class Voxels:
    """The part of the unit cube's uniform grid that is kept, and where a scene's points fall in it (Eq. 6).

    Attributes:
        index: [N] int64, the voxel of every point; a voxel's number is (i y + j) z + k.
        low: [3] int64, the first voxel of the part, in the whole grid.
        shape: (x, y, z).
        edges: [3], the voxel's edge along each axis, cube units.
    """

    index: Tensor
    low: Tensor
    shape: Resolution
    edges: Tensor

    @classmethod
    def of(cls, coord_cube: Tensor, resolution: Resolution, margin: int | None) -> Voxels:
        """Divide the cube.

        Args:
            coord_cube: [N, 3], cube units.
            resolution: (X, Y, Z).
            margin: keep the box of occupied voxels and so many around it, cut at the cube; None keeps the whole cube.
        """
        size = torch.tensor(resolution, device=coord_cube.device)
        voxel = torch.minimum(((coord_cube + 0.5) * size).floor().long().clamp(min=0), size - 1)
        low, high = torch.zeros_like(size), size
        if margin is not None:
            low = (voxel.amin(0) - margin).clamp(min=0)
            high = torch.minimum(voxel.amax(0) + 1 + margin, size)
        x, y, z = (int(count) for count in (high - low).tolist())
        i, j, k = (voxel - low).unbind(1)
        return cls((i * y + j) * z + k, low, (x, y, z), 1.0 / size.to(coord_cube))

    def centers(self) -> Tensor:
        """C_v of Eq. 6: the centres of the A voxels [A, 3], cube units."""
        steps = torch.meshgrid(*(torch.arange(n, device=self.low.device) for n in self.shape), indexing="ij")
        return (torch.stack(steps, dim=-1).view(-1, 3) + self.low + 0.5) * self.edges - 0.5


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
        self.margin = margin if crop else None
        self.checkpointing = checkpointing
        self.out_channels = widths[-1]
        sizes = [in_channels, *widths]
        self.blocks = nn.ModuleList(_Block(i, o, norm) for i, o in pairwise(sizes))

    @property
    def edges(self) -> tuple[float, float, float]:
        """The voxel's edge along each axis, cube units."""
        X, Y, Z = self.resolution
        return 1.0 / X, 1.0 / Y, 1.0 / Z

    def forward(self, coord: Tensor, features: Tensor, offsets: Tensor) -> tuple[tuple[UnitCube, SceneAnchors], ...]:
        """The cube and the anchors of every scene: one per voxel, z fastest.

        Args:
            coord: [N, 3] metres.
            features: [N, C].
            offsets: [B] cumulative number of points.

        Raises:
            DataError: a scene has no points, or points that are not finite.
        """
        return tuple(self._scene(*scene) for scene in split_scenes(coord, features, offsets))

    def _scene(self, coord: Tensor, features: Tensor) -> tuple[UnitCube, SceneAnchors]:
        cube = UnitCube.around(coord)
        voxels = Voxels.of(cube.points(coord), self.resolution, self.margin)
        values, cells = scatter_features(features, voxels.index, self.scatter)
        volume = self.dense(values, cells, voxels.shape)
        inside = dilate(cells, voxels.shape)
        return cube, SceneAnchors(volume, voxels.centers(), inside, voxels.edges)

    def dense(self, values: Tensor, cells: Tensor, shape: Resolution) -> Tensor:
        """The dense network E_den of Eq. 8.

        Args:
            values: [M, C], F_v of the voxels that hold a point; all others are zero.
            cells: [M] int64, their numbers.
            shape: (x, y, z).

        Returns:
            [A, D], F_d.
        """
        volume = self._block(0, values, cells, shape)
        for number in range(1, len(self.blocks)):
            volume = self._block(number, volume)
        return volume.permute(0, 2, 3, 4, 1).reshape(-1, self.out_channels)

    def _block(self, number: int, *inputs: Tensor | Resolution) -> Tensor:
        block = self.blocks[number]
        volume: Tensor = checkpoint(block, *inputs, use_reentrant=False) if self.checkpointing else block(*inputs)
        return volume


class _SceneNorm(nn.BatchNorm3d):
    """Batch norm whose statistics are of one scene, however many a batch has."""

    per_scene = True


class _Block(nn.Sequential):
    """Convolution, norm, ReLU: [1, C, x, y, z] to [1, D, x, y, z], channels last in memory.

    The first block gets the occupied voxels alone. On the CPU its convolution visits only those: the same numbers at a
    fraction of the work, as rooms fill less than a tenth of their box. Under autocast its factors and its result are
    rounded, its sums are not.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        normalise: nn.Module
        if norm == "batch":
            normalise = _SceneNorm(out_channels)
        else:
            normalise = nn.GroupNorm(_GROUPS if out_channels % _GROUPS == 0 else 1, out_channels)
        convolution = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        super().__init__(convolution, normalise, nn.ReLU(inplace=True))

    def forward(self, values: Tensor, cells: Tensor | None = None, shape: Resolution | None = None) -> Tensor:
        convolution = self[0]
        assert isinstance(convolution, nn.Conv3d)
        if cells is None or shape is None:
            convolved: Tensor = convolution(values)
        elif values.device.type == "cpu":
            low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else values.dtype
            rows = convolve_occupied(values.to(low), cells, shape, convolution.weight.to(low))
            convolved = _as_volume(rows.to(low), shape)
        else:
            grid = values.new_zeros(shape[0] * shape[1] * shape[2], values.shape[1])
            convolved = convolution(_as_volume(grid.index_copy(0, cells, values), shape))
        result: Tensor = self[2](self._normalised(convolved))
        return result

    def _normalised(self, volume: Tensor) -> Tensor:
        """The norm, also of a single voxel: it has no batch statistics, so batch norm takes its running ones."""
        norm = self[1]
        if isinstance(norm, nn.GroupNorm):
            return torch.group_norm(volume, norm.num_groups, norm.weight, norm.bias, norm.eps)
        assert isinstance(norm, nn.BatchNorm3d)
        if norm.training and volume[0, 0].numel() == 1:
            statistics = norm.running_mean, norm.running_var
            return functional.batch_norm(volume, *statistics, norm.weight, norm.bias, eps=norm.eps)
        normalised: Tensor = norm(volume)
        return normalised


def _as_volume(rows: Tensor, shape: Resolution) -> Tensor:
    """[A, C] as [1, C, x, y, z], without a copy."""
    return rows.view(1, *shape, -1).permute(0, 4, 1, 2, 3)


def scatter_features(features: Tensor, index: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """`Scatter` of Eq. 7, without the voxels that stay zero; sums in float32 at least.

    Args:
        features: [N, C], F_s.
        index: [N] int64, the voxel of each point.
        reduction: how the features of a voxel's points become one.

    Returns:
        [M, C], F_v of the voxels that hold a point, and their numbers [M] int64, ascending.
    """
    cells, inverse, count = torch.unique(index, return_inverse=True, return_counts=True)
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    values = features.new_zeros(len(cells), features.shape[1]).index_add(0, inverse, features)
    if reduction == "mean":
        values = values / count[:, None]
    return values, cells


def dilate(cells: Tensor, shape: Resolution) -> Tensor:
    """Which of the A voxels are in `cells` [M], or touch one that is by a face, an edge or a corner: [A] bool."""
    x, y, z = shape
    occupied = torch.zeros(x + 2, y + 2, z + 2, dtype=torch.bool, device=cells.device)
    occupied[cells // (y * z) + 1, cells // z % y + 1, cells % z + 1] = True
    occupied = occupied[:-2] | occupied[1:-1] | occupied[2:]
    occupied = occupied[:, :-2] | occupied[:, 1:-1] | occupied[:, 2:]
    occupied = occupied[:, :, :-2] | occupied[:, :, 1:-1] | occupied[:, :, 2:]
    return occupied.reshape(-1)
