"""From voxel features to Gaussians: one small MLP per attribute (Eq. 9-13).

Shape legend
    A  anchors (voxels)      K  anchors that are kept
    D  channels of the volume (d_o)      F  channels of a Gaussian's feature (d_f)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models.dense_volume import SceneVolume, dilate
from gcbench.structures import Gaussians

OpacityPrior: TypeAlias = Literal["occupancy", "none"]

_LAST_LAYER = 0.1  # the last layers start this much smaller, so that the starts below hold for any input


@dataclass(frozen=True)
class AnchorCounts:
    """What the pruning did in one scene.

    Attributes:
        anchors: A.
        kept: K.
        above: anchors above tau; fewer than `kept` where the floor acted.
        born: kept anchors outside the occupied voxels and their neighbours.
        gone: occupied voxels and neighbours that were not kept.
    """

    anchors: int
    kept: int
    above: int
    born: int
    gone: int

    @property
    def share(self) -> float:
        return self.kept / self.anchors


class GaussianHeads(nn.Module):
    """The heads G_sigma, G_q, G_s, G_c, G_delta and G_f, opacity-driven pruning, and mean refinement (Eq. 9-13).

    Opacity comes first, the other heads run only where an anchor is kept: the same values at less cost. A fresh network
    draws Gaussians of `scale_start` voxels, axis-aligned, grey, at the voxel centres.

    Args:
        in_channels: D.
        feature_channels: F.
        hidden_channels: width of each head's hidden layer.
        edges: the voxel's edge along each axis, cube units; from `DenseVolume.edges`.
        threshold: tau of Eq. 13; anchors with a higher opacity are kept.
        min_kept: floor: with fewer anchors above tau, the most opaque ones are kept instead.
        opacity_prior: ``"occupancy"`` adds +`prior_logit` to the opacity logit of occupied voxels and their 26
            neighbours and -`prior_logit` elsewhere; ``"none"`` is the paper's literal reading.
        prior_logit: see there.
        scale_start: the scales of a fresh network, in voxel edges.
        scale_limit: scales are clamped at so many voxel edges, along each local axis; None: no clamp.
        offset_range: Delta of Eq. 10 in voxel edges, along each axis.
        offsets: False leaves the means at the voxel centres.

    Raises:
        InputError: an argument is out of range, or no anchor of a fresh network would be kept.
    """

    def __init__(
        self,
        in_channels: int,
        feature_channels: int,
        hidden_channels: int,
        edges: tuple[float, float, float],
        *,
        threshold: float,
        min_kept: int = 256,
        opacity_prior: OpacityPrior = "occupancy",
        prior_logit: float = 1.5,
        scale_start: float = 0.5,
        scale_limit: float | None = 4.0,
        offset_range: float = 1.0,
        offsets: bool = True,
    ) -> None:
        super().__init__()
        if opacity_prior not in ("occupancy", "none"):
            raise InputError(f"There is no opacity prior '{opacity_prior}'.", "Choose 'occupancy' or 'none'.")
        if not 0 <= threshold < 1 or min_kept < 1 or scale_start <= 0 or offset_range < 0 or min(edges) <= 0:
            raise InputError(
                "The Gaussian heads need 0 <= threshold < 1, min_kept >= 1, scale_start > 0, offset_range >= 0 and "
                f"edges > 0, not {threshold}, {min_kept}, {scale_start}, {offset_range} and {edges}."
            )
        self.prior_logit = prior_logit if opacity_prior == "occupancy" else 0.0
        if 1 / (1 + math.exp(-self.prior_logit)) <= threshold:
            raise InputError(
                f"With an opacity logit of {self.prior_logit:g} no anchor starts above the threshold {threshold:g}.",
                "Raise prior_logit or lower threshold: what is never kept gets no gradient.",
            )
        self.threshold, self.min_kept = threshold, min_kept
        self.scale_limit, self.offset_range = scale_limit, offset_range

        def head(out_channels: int) -> nn.Sequential:
            return _head(in_channels, hidden_channels, out_channels)

        self.opacity, self.quat, self.scale, self.color = head(1), head(4), head(3), head(3)
        self.feature = head(feature_channels)
        self.offset = head(3) if offsets else None
        with torch.no_grad():
            _bias(self.quat).copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
            _bias(self.scale).copy_(torch.log(torch.expm1(scale_start * torch.tensor(edges))))  # softplus^-1

    def forward(self, volume: SceneVolume) -> tuple[Gaussians, AnchorCounts]:
        """The Gaussians of one scene, cube units, and what the pruning did."""
        inside = dilate(volume.occupied, 1).view(-1)
        prior = torch.where(inside, self.prior_logit, -self.prior_logit).to(volume.features)
        opacity = torch.sigmoid(self.opacity(volume.features).squeeze(1) + prior)  # Eq. 9
        kept, above = self._keep(opacity.detach())
        features, edges = volume.features.index_select(0, kept), volume.edges

        means = volume.centers.index_select(0, kept)
        if self.offset is not None:
            means = means + torch.tanh(self.offset(features)) * self.offset_range * edges  # Eq. 10, 11
        scales = functional.softplus(self.scale(features))
        if self.scale_limit is not None:
            scales = torch.minimum(scales, self.scale_limit * edges)
        gaussians = Gaussians(
            means=means,
            quats=functional.normalize(self.quat(features), dim=1),
            scales=scales,
            opacities=opacity.index_select(0, kept),
            colors=torch.sigmoid(self.color(features)),
            features=self.feature(features),  # Eq. 12
        )
        kept_inside = int(inside[kept].sum())
        return gaussians, AnchorCounts(
            anchors=len(opacity),
            kept=len(kept),
            above=above,
            born=len(kept) - kept_inside,
            gone=int(inside.sum()) - kept_inside,
        )

    def _keep(self, opacity: Tensor) -> tuple[Tensor, int]:
        """Indices of the anchors that are kept (Eq. 13), and how many lie above tau."""
        kept = (opacity > self.threshold).nonzero().squeeze(1)
        above = len(kept)
        if above < self.min_kept:
            kept = opacity.topk(min(self.min_kept, len(opacity))).indices.sort().values
        return kept, above


def _head(in_channels: int, hidden_channels: int, out_channels: int) -> nn.Sequential:
    last = nn.Linear(hidden_channels, out_channels)
    with torch.no_grad():
        last.weight.mul_(_LAST_LAYER)
        last.bias.zero_()
    return nn.Sequential(nn.Linear(in_channels, hidden_channels), nn.ReLU(), last)


def _bias(head: nn.Sequential) -> Tensor:
    last = head[-1]
    assert isinstance(last, nn.Linear)
    return last.bias
