"""GaussianCross put together: from a batch of points to rendered views of every scene (Eq. 5-16).

Shape legend
    N  points      B  scenes      V  views of a scene      H, W  pixels      h, w  cells of the teacher's grid
    C  channels of the encoder (d_s)      F  channels of a Gaussian's feature (d_f)      D  channels of the teacher (d*)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models.anchors import Frame, SceneAnchors
from gcbench.models.dense_volume import DenseVolume
from gcbench.models.gaussian_heads import AnchorCounts, GaussianHeads
from gcbench.models.point_anchors import PointAnchors
from gcbench.structures import Gaussians, PointBatch, PosedViews

Background: TypeAlias = Literal["black", "mean"]
SceneWarning: TypeAlias = Literal["no-depth", "nothing-in-view", "one-point", "all-pruned"]


class Rendered(Protocol):
    """What a renderer returns: colors [V, H, W, 3], depths [V, H, W], features [V, H, W, F], alphas [V, H, W]."""

    @property
    def colors(self) -> Tensor: ...
    @property
    def depths(self) -> Tensor: ...
    @property
    def features(self) -> Tensor: ...
    @property
    def alphas(self) -> Tensor: ...


class Renderer(Protocol):
    """The call of `gcbench.splatting.render`."""

    def __call__(
        self,
        gaussians: Gaussians,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        background: Tensor | None = None,
    ) -> Rendered: ...


@dataclass(frozen=True)
class _Views:
    """See `Rendered`."""

    colors: Tensor
    depths: Tensor
    features: Tensor
    alphas: Tensor


@dataclass(frozen=True)
class ScenePrediction:
    """One scene, rendered. Lengths are the frame's: cube units, or metres with anchors at the points.

    Attributes:
        rendered: the V views; NaN all over if a Gaussian is not finite, so that the loss says so.
        targets: the views to compare with; depths and viewmats in the frame's unit.
        gaussians: the Gaussians.
        counts: what the pruning did.
        feature_maps: [V, h, w, D], P_psi of the rendered features on the teacher's grid (Eq. 16); None without a grid.
        warnings: what makes the scene teach little or nothing. ``"no-depth"``: no view measures any depth;
            ``"nothing-in-view"``: no Gaussian is seen in any view; ``"one-point"``: all its points coincide;
            ``"all-pruned"``: no anchor is above tau.
    """

    rendered: Rendered
    targets: PosedViews
    gaussians: Gaussians
    counts: AnchorCounts
    feature_maps: Tensor | None
    warnings: tuple[SceneWarning, ...] = ()


class Pretrainer(nn.Module):
    """Encoder, dense volume, Gaussian heads and projection head; rendering is passed in.

    Under autocast the encoder and the dense network compute in low precision; the unit cube, the Gaussians, rendering
    and the projection head always compute in float32.

    A scene that has nothing to teach (`ScenePrediction.warnings`) still gives predictions with a gradient, of zero if
    need be, so that every step is a step.

    Args:
        encoder: E_phi, maps a `PointBatch` to point features [N, C] (Eq. 5).
        volume: Eq. 6-8, or anchors at the points (Figure 3).
        heads: Eq. 9-13.
        render: a splatting engine (Eq. 3, 14, 15).
        feature_channels: F.
        teacher_channels: D; None leaves out the projection head P_psi.
        background: colour behind the Gaussians: black, or the mean colour of the scene's target views.

    Raises:
        InputError: an unknown background, or a projection head without features to project.
    """

    def __init__(
        self,
        encoder: nn.Module,
        volume: DenseVolume | PointAnchors,
        heads: GaussianHeads,
        render: Renderer,
        *,
        feature_channels: int,
        teacher_channels: int | None,
        background: Background = "black",
    ) -> None:
        super().__init__()
        if background not in ("black", "mean"):
            raise InputError(f"There is no background '{background}'.", "Choose 'black' or 'mean'.")
        if teacher_channels is not None and not feature_channels:
            raise InputError("A projection head needs features to project.", "Give feature_channels above 0.")
        self.encoder, self.volume, self.heads = encoder, volume, heads
        self.render = render
        self.background: Background = background
        self.projection = None if teacher_channels is None else nn.Linear(feature_channels, teacher_channels)

    def forward(
        self, points: PointBatch, views: Sequence[PosedViews], grid: tuple[int, int] | None = None
    ) -> tuple[ScenePrediction, ...]:
        """Render the views of each scene.

        Args:
            points: B scenes, already masked and sampled (Eq. 4).
            views: B times V views, in the frame of the points.
            grid: (h, w) of the teacher's feature maps; None leaves them out.

        Raises:
            InputError: the numbers of scenes differ, or there is a grid but no projection head.
        """
        if len(views) != len(points.offsets):
            raise InputError(f"{len(points.offsets)} scenes of points, but views of {len(views)} scenes.")
        if grid is not None and self.projection is None:
            raise InputError("Feature maps need a projection head.", "Give the pretrainer teacher_channels.")
        features = self.encoder(points)  # Eq. 5
        scenes = self.volume(points.coord, features, points.offsets)
        with torch.autocast(points.coord.device.type, enabled=False):
            predictions = [self._scene(*scene, grid) for scene in zip(scenes, views, strict=True)]
        sizes = torch.diff(points.offsets, prepend=points.offsets.new_zeros(1)).tolist()
        return tuple(
            replace(prediction, warnings=_warnings(prediction, coord))
            for prediction, coord in zip(predictions, torch.split(points.coord, sizes), strict=True)
        )

    def _scene(
        self, anchored: tuple[Frame, SceneAnchors], views: PosedViews, grid: tuple[int, int] | None
    ) -> ScenePrediction:
        frame, anchors = anchored
        targets = frame.views(views)
        gaussians, counts = self.heads(anchors)
        height, width = targets.depths.shape[1:]
        background = targets.colors.mean(dim=(0, 1, 2)) if self.background == "mean" else None
        rendered: Rendered
        if all(bool(torch.isfinite(getattr(gaussians, field.name)).all()) for field in fields(gaussians)):
            rendered = self.render(gaussians, targets.viewmats, targets.Ks, width, height, background=background)
        else:
            rendered = _without_sight(gaussians, targets.depths)
        maps = None if grid is None else self.feature_maps(rendered.features, grid)
        return ScenePrediction(rendered, targets, gaussians, counts, maps)

    def feature_maps(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """P_psi of the rendered features [V, H, W, F], averaged over the cells of the teacher's grid (Eq. 16).

        P_psi is linear, so averaging first gives the same [V, h, w, D] as projecting every pixel.
        """
        assert self.projection is not None
        cells = functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)
        maps: Tensor = self.projection(cells)
        return maps


def _without_sight(gaussians: Gaussians, depths: Tensor) -> Rendered:
    """Views of NaN, like the target depths [V, H, W], that depend on all fields of the Gaussians."""
    total = sum((getattr(gaussians, field.name).sum() for field in fields(gaussians)), depths.new_zeros(()))
    flat = (total * torch.nan).expand(depths.shape)
    deep = [flat[..., None].expand(*depths.shape, size) for size in (3, gaussians.features.shape[1])]
    return _Views(deep[0], flat, deep[1], flat)


def _warnings(prediction: ScenePrediction, coord: Tensor) -> tuple[SceneWarning, ...]:
    """See `ScenePrediction.warnings`; coord [N, 3] are the scene's points."""
    depths, found = prediction.targets.depths, list[SceneWarning]()
    if not bool((torch.isfinite(depths) & (depths > 0)).any()):
        found.append("no-depth")
    if len(prediction.gaussians) and bool((prediction.rendered.alphas == 0).all()):
        found.append("nothing-in-view")
    if bool((coord == coord[0]).all()):
        found.append("one-point")
    if not prediction.counts.above:
        found.append("all-pruned")
    return tuple(found)
