"""Builds the pre-trainer of a recipe (Eq. 5-16)."""

from __future__ import annotations

from gcbench.models.dense_volume import DenseVolume
from gcbench.models.gaussian_heads import GaussianHeads
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
    volume = DenseVolume(
        encoder.out_channels,
        recipe.volume.grid,
        recipe.volume.dense_channels,
        scatter=recipe.volume.scatter,
        crop=recipe.volume.crop,
        margin=recipe.volume.margin,
        norm=recipe.volume.norm,
        checkpointing=recipe.volume.checkpoint,
    )
    gaussians = recipe.gaussians
    heads = GaussianHeads(
        recipe.volume.dense_channels[-1],
        gaussians.feature_channels,
        gaussians.hidden,
        volume.edges,
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
        volume,
        heads,
        render,
        feature_channels=gaussians.feature_channels,
        teacher_channels=teacher_dim,
        background=recipe.losses.background,
    )
