"""Anchors at the input points, in metres: the method "without cuboid normalisation" of Figure 3.

There is no unit cube, no voxels and no dense network: the Gaussians' coarse means are the points P_g of Eq. 4, and the
heads read the encoder's features F_s of Eq. 5.

Shape legend: N points of all scenes, B scenes, C channels of the point features (d_s)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gcbench.errors import DataError, InputError
from gcbench.models.anchors import Metres, SceneAnchors, split_scenes


class PointAnchors(nn.Module):
    """One anchor per point; takes the place of `DenseVolume` and has no parameter.

    Args:
        in_channels: C.
        grid_size: g, the edge of the grid that the points were sampled on, metres.

    Raises:
        InputError: the grid size is not positive.
    """

    def __init__(self, in_channels: int, grid_size: float) -> None:
        super().__init__()
        if not grid_size > 0:
            raise InputError(f"Points cannot be anchors with a grid size of {grid_size}.", "Give metres above 0.")
        self.out_channels = in_channels
        self.grid_size = grid_size

    @property
    def edges(self) -> tuple[float, float, float]:
        """The distance of neighbouring anchors along each axis, metres."""
        return self.grid_size, self.grid_size, self.grid_size

    def forward(self, coord: Tensor, features: Tensor, offsets: Tensor) -> tuple[tuple[Metres, SceneAnchors], ...]:
        """The frame and the anchors of every scene.

        Args:
            coord: [N, 3] metres.
            features: [N, C].
            offsets: [B] cumulative number of points.

        Raises:
            DataError: a scene has no points, or points that are not finite.
        """
        return tuple((Metres(), self._scene(*scene)) for scene in split_scenes(coord, features, offsets))

    def _scene(self, coord: Tensor, features: Tensor) -> SceneAnchors:
        if not len(coord) or not bool(torch.isfinite(coord).all()):
            raise DataError("A scene without points, or with points that are not finite, has no anchors.")
        inside = torch.ones(len(coord), dtype=torch.bool, device=coord.device)
        return SceneAnchors(features, coord, inside, coord.new_tensor(self.edges))
