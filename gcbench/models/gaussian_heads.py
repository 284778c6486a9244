"""From the features of anchors to Gaussians: one small MLP per attribute (Eq. 9-13).

Shape legend
    A  anchors      K  anchors that are kept
    D  channels of an anchor's feature (d_o)      F  channels of a Gaussian's feature (d_f)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models.anchors import SceneAnchors
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
        born: kept anchors that are not `inside` (`SceneAnchors`).
        gone: anchors inside that were not kept.
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

    Opacity comes first, of every anchor and without gradient; then all heads run where an anchor is kept. As what is
    pruned has no gradient, these are the same values and gradients at less cost. A fresh network draws Gaussians of
    `scale_start` edges, axis-aligned, grey, at the anchors' centres.

    Args:
        in_channels: D.
        feature_channels: F; 0 leaves out the feature head.
        hidden_channels: width of each head's hidden layer.
        edges: the distance of anchors along each axis, from `DenseVolume.edges` or `PointAnchors.edges`.
        threshold: tau of Eq. 13; anchors with a higher opacity are kept.
        min_kept: floor: with fewer anchors above tau, the most opaque ones are kept instead; 0 is the literal Eq. 13,
            under which a scene can lose all its Gaussians and with them its gradient.
        opacity_prior: ``"occupancy"`` adds +`prior_logit` to the opacity logit of anchors `inside` (occupied voxels
            and their 26 neighbours, or every point) and -`prior_logit` elsewhere; ``"none"`` is the paper's literal
            reading.
        prior_logit: see there.
        scale_start: the scales of a fresh network, in edges.
        scale_limit: scales are clamped at so many edges, along each local axis; None: no clamp.
        offset_range: Delta of Eq. 11 in edges, along each axis.
        offsets: False leaves the means at the anchors' centres.

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
        if not (0 <= threshold < 1 and min_kept >= 0 and feature_channels >= 0) or (
            scale_start <= 0 or offset_range < 0 or min(edges) <= 0
        ):
            raise InputError(
                "The Gaussian heads need 0 <= threshold < 1, min_kept >= 0, feature_channels >= 0, scale_start > 0, "
                f"offset_range >= 0 and edges > 0, not {threshold}, {min_kept}, {feature_channels}, {scale_start}, "
                f"{offset_range} and {edges}."
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
        self.feature = head(feature_channels) if feature_channels else None
        self.offset = head(3) if offsets else None
        with torch.no_grad():
            _bias(self.quat).copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
            _bias(self.scale).copy_(torch.log(torch.expm1(scale_start * torch.tensor(edges))))  # softplus^-1

    def forward(self, anchors: SceneAnchors) -> tuple[Gaussians, AnchorCounts]:
        """The Gaussians of one scene, in the unit of its anchors and in float32 at least, and what the pruning did."""
        every = anchors.features.to(torch.promote_types(anchors.features.dtype, torch.float32))
        with torch.no_grad():
            kept, above = self.keep(self.opacities(every, anchors.inside))
        features, inside = every.index_select(0, kept), anchors.inside.index_select(0, kept)
        quats, scales = self.quats_and_scales(features, anchors.edges)
        gaussians = Gaussians(
            means=self.means(features, anchors.centers.index_select(0, kept), anchors.edges),
            quats=quats,
            scales=scales,
            opacities=self.opacities(features, inside),
            colors=self.colors(features),
            features=self.semantics(features),
        )
        kept_inside = int(inside.sum())
        return gaussians, AnchorCounts(
            anchors=len(every),
            kept=len(kept),
            above=above,
            born=len(kept) - kept_inside,
            gone=int(anchors.inside.sum()) - kept_inside,
        )

    def quats_and_scales(self, features: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 9: unit quaternions [K, 4] and scales [K, 3] of anchors with features [K, D]."""
        scales = functional.softplus(self.scale(features))
        if self.scale_limit is not None:
            scales = torch.minimum(scales, self.scale_limit * edges)
        return functional.normalize(self.quat(features), dim=1), scales

    def colors(self, features: Tensor) -> Tensor:
        """Eq. 10: colours [K, 3] of anchors with features [K, D]."""
        return torch.sigmoid(self.color(features))

    def opacities(self, features: Tensor, inside: Tensor) -> Tensor:
        """Eq. 10: opacities [A] of anchors with features [A, D]; the prior moves the logits by `inside` [A]."""
        prior = torch.where(inside, self.prior_logit, -self.prior_logit)
        return torch.sigmoid(self.opacity(features).squeeze(1) + prior)

    def means(self, features: Tensor, centers: Tensor, edges: Tensor) -> Tensor:
        """Eq. 11: offsets from features [K, D], and the means [K, 3] they refine: mu = nu + delta."""
        if self.offset is None:
            return centers
        return centers + torch.tanh(self.offset(features)) * self.offset_range * edges

    def semantics(self, features: Tensor) -> Tensor:
        """Eq. 12: the features [K, F] that are rendered, of anchors with features [K, D]."""
        if self.feature is None:
            return features.new_zeros(len(features), 0)
        semantic: Tensor = self.feature(features)
        return semantic

    def keep(self, opacities: Tensor) -> tuple[Tensor, int]:
        """Eq. 13: indices [K] of the anchors that are kept of those with opacities [A], and how many lie above tau."""
        kept = (opacities > self.threshold).nonzero().squeeze(1)
        above = len(kept)
        if above < self.min_kept:
            kept = opacities.topk(min(self.min_kept, len(opacities))).indices.sort().values
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
