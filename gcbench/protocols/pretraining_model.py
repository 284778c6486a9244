"""Builds the pre-trainer of a recipe (Eq. 5-16)."""

from __future__ import annotations

from gcbench.models.dense_volume import DenseVolume
from gcbench.models.gaussian_heads import GaussianHeads
from gcbench.models.point_anchors import PointAnchors
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.sparse_unet import SparseUNet
from gcbench.recipe.schema import PretrainRecipe
from gcbench.splatting import render


def build_pretrainer(recipe: PretrainRecipe, encoder: SparseUNet, teacher_dim: int | None) -> Pretrainer:
    """The model of a recipe (Eq. 5-16).

    Args:
        recipe: its sizes and options.
        encoder: E_phi.
        teacher_dim: channels of the teacher, None without one: then nothing is distilled.
    """
    anchors = _anchors(recipe, encoder.out_channels)
    gaussians = recipe.gaussians
    feature_channels = 0 if teacher_dim is None else gaussians.feature_channels
    heads = GaussianHeads(
        anchors.out_channels,
        feature_channels,
        gaussians.hidden,
        anchors.edges,
        threshold=gaussians.opacity_threshold,
        min_kept=gaussians.min_kept,
        opacity_prior=gaussians.opacity_prior,
        prior_logit=gaussians.opacity_prior_logit,
        scale_start=gaussians.scale_start,
        scale_limit=gaussians.scale_max,
        offset_range=gaussians.offset_range,
        offsets=gaussians.offsets,
    )
    return Pretrainer(
        encoder,
        anchors,
        heads,
        render,
        feature_channels=feature_channels,
        teacher_channels=teacher_dim,
        background=recipe.losses.background,
    )


def _anchors(recipe: PretrainRecipe, channels: int) -> DenseVolume | PointAnchors:
    volume = recipe.volume
    if volume.anchors == "points":
        return PointAnchors(channels, recipe.data.grid_size)
    return DenseVolume(
        channels,
        volume.grid,
        volume.dense_channels,
        scatter=volume.scatter,
        crop=volume.crop,
        margin=volume.margin,
        norm=volume.norm,
        checkpointing=volume.checkpoint,
    )
