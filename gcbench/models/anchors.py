"""What Gaussians are anchored at, and the frame in which that lies: the unit cube of Eq. 6, or metres.

Shape legend
    N  points of a scene      A  anchors      D  channels of an anchor's feature      V  views
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from gcbench.errors import DataError
from gcbench.structures import PosedViews

_SMALLEST_EXTENT = 0.5  # metres; no room is smaller, and the cube of a single point needs some size


class Frame(Protocol):
    """Where a scene's anchors lie; Gaussians and rendering share its unit."""

    def views(self, views: PosedViews) -> PosedViews:
        """Metric views, with viewmats and depths in this frame."""
        ...


@dataclass(frozen=True)
class UnitCube:
    """The map I of Eq. 6, for one scene: metres to the cube [-0.5, 0.5]^3, with one scale for all three axes.

    The scene's longest extent fills the cube; x and y are centred and the floor lies at z = -0.5. A scene smaller than
    half a metre gets the cube of half a metre: a single point then lies in the middle of the cube's floor.

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
            DataError: there are no points, or they are not finite.
        """
        if not len(coord) or not bool(torch.isfinite(coord).all()):
            raise DataError("A scene without points, or with points that are not finite, has no unit cube.")
        low, high = coord.amin(0), coord.amax(0)
        extent = (high - low).max().clamp(min=_SMALLEST_EXTENT)
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
class Metres:
    """The frame of the points themselves: nothing is moved or scaled."""

    def views(self, views: PosedViews) -> PosedViews:
        """The views as they are."""
        return views


@dataclass(frozen=True)
class SceneAnchors:
    """The A anchors of one scene: each becomes at most one Gaussian. Lengths are the frame's.

    Attributes:
        features: [A, D].
        centers: [A, 3], the coarse means nu of the Gaussians.
        inside: [A] bool, anchors where the scene has points or is next to some.
        edges: [3], the distance of neighbouring anchors along each axis.
    """

    features: Tensor
    centers: Tensor
    inside: Tensor
    edges: Tensor


def split_scenes(coord: Tensor, features: Tensor, offsets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Points and features of each scene, from all points [N, 3], [N, D] and cumulative numbers of points [B]."""
    sizes = torch.diff(offsets, prepend=offsets.new_zeros(1)).tolist()
    return zip(torch.split(coord, sizes), torch.split(features, sizes), strict=True)
