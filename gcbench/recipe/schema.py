"""What a recipe may say. Unknown keys and wrong types are errors.

Lengths are metres, angles degrees, probabilities and ratios in [0, 1]. `null` means "not used".
The values themselves, each with its source, stand in `recipes/`; this module has no value of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
Checkpoint = Literal["last", "best"]


class Section(BaseModel):
    """A part of a recipe: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Encoder(Section):
    """SparseUNet sizes (Sec. 4.1; Pointcept's SpUNet-v1m1)."""

    in_channels: Count
    base_channels: Count
    channels: tuple[Count, ...]
    layers: tuple[Count, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Encoder:
        if len(self.channels) != len(self.layers) or len(self.channels) % 2:
            raise ValueError("channels and layers need the same, even length")
        return self


class Optimizer(Section):
    """AdamW."""

    lr: Positive
    betas: tuple[float, float]
    weight_decay: NonNegative
    clip_norm: Positive | None


class Schedule(Section):
    """One-cycle cosine, stepped per iteration. The budget is in epochs (passes) or in steps: one of them is null."""

    epochs: Count | None
    rounds: Count
    steps: Count | None
    batch_size: Count
    warmup: Probability
    div_factor: Positive
    final_div_factor: Positive

    @model_validator(mode="after")
    def _one_budget(self) -> Schedule:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and null for the other")
        if self.epochs is not None and self.epochs % self.rounds:
            raise ValueError("epochs must be a multiple of rounds")
        return self

    def total_steps(self, scenes: int) -> int:
        """Optimiser steps for a training set of that many scenes.

        As in the official runs, the epochs are cut into `rounds` and the last short batch of a round is dropped.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.rounds * max(scenes * (self.epochs // self.rounds) // self.batch_size, 1)

    def round_steps(self, total_steps: int) -> int:
        """Steps of one round, at least one."""
        return max(total_steps // self.rounds, 1)


class Run(Section):
    """How the loop runs. What is learnt depends on `precision`, and on `batchnorm` and `accumulate` where there are
    several processes or parts; on nothing else here.

    Attributes:
        batchnorm: statistics of each process's own part of a batch (`local`), or of all processes (`synchronised`).
        accumulate: parts that every process cuts its share of a batch into, one after the other: less memory, the same
            batch. Batch norm sees a part.
        skip_limit: steps in a row whose loss or gradient is not finite before training stops.
        keep_checkpoints: how many of the last are kept, beside that of the best evaluation where there is one.
        evaluate_every: in steps; null evaluates after each of the schedule's rounds.
    """

    precision: Literal["no", "bf16", "fp16"]
    batchnorm: Literal["local", "synchronised"]
    accumulate: Count
    skip_limit: Count
    keep_checkpoints: Count
    workers: Annotated[int, Field(ge=0)]
    log_every: Count
    checkpoint_every: Count
    evaluate_every: Count | None


class PretrainData(Section):
    """Points and views of pre-training (Eq. 4; Sec. 4.1)."""

    dataset: Literal["scannet", "s3dis"]
    splits: tuple[str, ...]
    grid_size: Positive
    mask_ratio: Annotated[float, Field(ge=0.0, lt=1.0)]
    mask_block: NonNegative
    views: Count
    view_width: Count
    view_height: Count
    holdout_every: Annotated[int, Field(ge=2)]
    evaluation_scenes: Count


class GeometricAugmentation(Section):
    """Augmentations that move points and cameras together (Table S.1)."""

    rotate_z: Range
    rotate_z_p: Probability
    rotate_xy: Range
    rotate_xy_p: Probability
    scale: Range
    scale_p: Probability
    flip_p: Probability


class Volume(Section):
    """Unit cube, voxels, scatter and the dense 3D network (Eq. 6-8).

    Attributes:
        anchors: `voxels` of the unit cube, or the input `points` themselves in metres ("without cuboid normalisation",
            Figure 3): then none of the values below is used, and an edge is the sampling's grid size.
        grid: (X, Y, Z) voxels of the whole cube; three equal numbers make cubic voxels.
        dense_channels: outputs of the 3 x 3 x 3 convolutions; the last is d_o.
    """

    anchors: Literal["voxels", "points"]
    grid: tuple[Count, Count, Count]
    scatter: Literal["mean", "sum"]
    crop: bool
    margin: Annotated[int, Field(ge=0)]
    dense_channels: tuple[Count, ...]
    norm: Literal["batch", "group"]
    checkpoint: bool


class GaussianHeads(Section):
    """One MLP per attribute and pruning (Eq. 9-13)."""

    hidden: Count
    feature_channels: Count
    opacity_threshold: Annotated[float, Field(ge=0.0, lt=1.0)]
    opacity_prior: Literal["occupancy", "none"]
    opacity_prior_logit: NonNegative
    min_kept: Annotated[int, Field(ge=0)]
    scale_start: Positive
    scale_max: Positive
    offsets: bool
    offset_range: Positive


class Teacher(Section):
    """The frozen 2D model whose features are distilled (Eq. 16). Not loaded where the semantic loss has no weight.

    Attributes:
        name: `radio`, `dinov2` or `clip` (through transformers), or `classical`: dense classical 2D descriptors that
            need no download.
        model: an id on the Hugging Face Hub, or a local folder; null for `classical`.
        revision: a commit or tag on the Hub; null for a folder and for `classical`.
        rows: rows of its grid of cells, or patches: photos are resized to so many; columns follow from the aspect
            ratio.
        precision: of its forward pass.
        cache_gb: keep its features on disk, at half precision and at most so many GB; null computes them every time.
    """

    name: Literal["radio", "dinov2", "clip", "classical"]
    model: str | None
    revision: str | None
    rows: Count
    precision: Literal["no", "bf16", "fp16"]
    cache_gb: Positive | None

    @model_validator(mode="after")
    def _consistent(self) -> Teacher:
        if (self.name == "classical") != (self.model is None):
            raise ValueError("name: classical takes model: null; every other teacher needs a model")
        return self


class PretrainLosses(Section):
    """Weights of Eq. 20, and the background the views are rendered on. A weight of 0 leaves a target out (Table 5)."""

    image: NonNegative
    depth: NonNegative
    semantic: NonNegative
    background: Literal["black", "mean"]

    @model_validator(mode="after")
    def _some_target(self) -> PretrainLosses:
        if not self.image + self.depth + self.semantic:
            raise ValueError("one of image, depth and semantic needs a weight above 0")
        return self


class PretrainRecipe(Section):
    """GaussianCross pre-training."""

    kind: Literal["pretrain"]
    title: str
    data: PretrainData
    augmentation: GeometricAugmentation
    encoder: Encoder
    volume: Volume
    gaussians: GaussianHeads
    teacher: Teacher
    losses: PretrainLosses
    optimizer: Optimizer
    schedule: Schedule
    run: Run


class SemanticData(Section):
    """Sampling of the points of downstream training."""

    grid_size: Positive
    crop_points: Count | None
    mix3d_p: Probability


class SemanticAugmentation(Section):
    """The downstream training transforms, in the order they are applied (Pointcept's ScanNet chain)."""

    dropout_ratio: Probability
    dropout_p: Probability
    rotate_z: Range
    rotate_z_p: Probability
    rotate_xy: Range
    rotate_xy_p: Probability
    scale: Range
    flip_p: Probability
    jitter_sigma: NonNegative
    jitter_clip: NonNegative
    elastic: tuple[Range, ...]
    elastic_p: Probability
    auto_contrast_p: Probability
    color_translation_p: Probability
    color_translation_ratio: NonNegative
    color_jitter_p: Probability
    color_jitter_std: NonNegative


class Probe(Section):
    """What is trained: everything, or a linear layer on a frozen encoder.

    Attributes:
        frozen: the encoder gets no gradient.
        batchnorm: the frozen encoder's batch norm: `track` (train mode, as in the official code), `frozen` (eval mode
            with the statistics it came with), `reestimated` (statistics measured once on the training scenes, then
            eval mode). Not used when the encoder is trained.
        features: `online` (every step runs the encoder on an augmented crop) or `extracted` (the encoder runs once on
            every training scene, the linear layer trains on the stored features).
        level: `decoder` (the encoder's 96 output channels, what the paper probes) or `encoder-levels` (all encoder
            levels upcast to the points and concatenated).
    """

    frozen: bool
    batchnorm: Literal["track", "frozen", "reestimated"]
    features: Literal["online", "extracted"]
    level: Literal["decoder", "encoder-levels"]

    @model_validator(mode="after")
    def _consistent(self) -> Probe:
        if self.features == "extracted" and (not self.frozen or self.batchnorm == "track"):
            raise ValueError("features: extracted needs frozen: true and batchnorm: frozen or reestimated")
        if self.level == "encoder-levels" and not self.frozen:
            raise ValueError("level: encoder-levels is a probe: it needs frozen: true")
        return self


class SemanticLosses(Section):
    """Weights of the two terms; points labelled -1 are ignored by both."""

    cross_entropy: NonNegative
    lovasz: NonNegative


class SemanticEvaluation(Section):
    """How scenes are predicted, and where they are scored.

    Attributes:
        resolution: on the sampled voxels, or on the original points (single pass: by 1-nearest neighbour).
        inference: a single pass, or fragments under test-time augmentation: every rotation about z (degrees) at every
            scale, and one flip of both axes; probabilities are summed per point.
        checkpoint: which weights the number is of: those after the `last` step, or the `best` of all evaluations while
            training (the highest mIoU of a single pass over the scenes that are scored). Both are kept.
    """

    protocol: Literal["pointcept", "scannet-official"]
    resolution: Literal["voxels", "points"]
    inference: Literal["single-pass", "tta"]
    tta_rotations: Annotated[list[float], Field(min_length=1)]
    tta_scales: Annotated[list[Positive], Field(min_length=1)]
    tta_flip: bool
    checkpoint: Checkpoint

    def single_pass(self) -> SemanticEvaluation:
        """The same without test-time augmentation, as while training."""
        return self.model_copy(update={"inference": "single-pass"})

    @model_validator(mode="after")
    def _consistent(self) -> SemanticEvaluation:
        if self.inference == "tta" and self.resolution != "points":
            raise ValueError("inference: tta predicts every original point, so it needs resolution: points")
        return self


class SemanticRecipe(Section):
    """Semantic segmentation: trained in full from a random or a pre-trained encoder, or a linear probe."""

    kind: Literal["semantic"]
    title: str
    data: SemanticData
    augmentation: SemanticAugmentation
    encoder: Encoder
    probe: Probe
    losses: SemanticLosses
    evaluation: SemanticEvaluation
    optimizer: Optimizer
    schedule: Schedule
    run: Run


class InstanceData(Section):
    """Sampling of the points of instance segmentation; `crop_share` of a scene's voxels stays."""

    grid_size: Positive
    crop_share: Annotated[float, Field(gt=0.0, le=1.0)]


class Grouping(Section):
    """From points, classes and offsets to proposals (PointGroup).

    Attributes:
        radius: points of one class that are closer, once moved by their offsets, are of one cluster; in grid cells.
        cluster_minimum: points of the smallest cluster.
        proposal_minimum: a proposal has more points than that.
    """

    radius: Positive
    cluster_minimum: Count
    proposal_minimum: Annotated[int, Field(ge=0)]


class InstanceLosses(Section):
    """Weights of the terms; classes over labelled points, offsets over points of instances."""

    cross_entropy: NonNegative
    lovasz: NonNegative
    offset_l1: NonNegative
    offset_cosine: NonNegative


class InstanceEvaluation(Section):
    """How instances are scored, on the original points (back by 1-nearest neighbour).

    Attributes:
        protocol: the metric policy; it also says which classes are no instances.
        checkpoint: as in `SemanticEvaluation`; the best is that of the highest AP50.
    """

    protocol: Literal["pointcept", "scannet-official"]
    checkpoint: Checkpoint


class InstanceRecipe(Section):
    """Instance segmentation with PointGroup's heads, trained in full."""

    kind: Literal["instance"]
    title: str
    data: InstanceData
    augmentation: SemanticAugmentation
    encoder: Encoder
    grouping: Grouping
    losses: InstanceLosses
    evaluation: InstanceEvaluation
    optimizer: Optimizer
    schedule: Schedule
    run: Run


class RoomSet(Section):
    """A set of synthetic rooms for a preset that brings its own data."""

    scenes: Count
    val: Count
    seed: int
    frames: Annotated[int, Field(ge=0)]
    frame_width: Count
    frame_height: Count


class RoomsRecipe(Section):
    """The synthetic rooms of one layout."""

    kind: Literal["rooms"]
    title: str
    scannet: RoomSet
    s3dis: RoomSet


SegmentationRecipe = SemanticRecipe | InstanceRecipe
Recipe = PretrainRecipe | SegmentationRecipe | RoomsRecipe
RECIPE_KINDS: dict[str, type[PretrainRecipe] | type[SemanticRecipe] | type[InstanceRecipe] | type[RoomsRecipe]] = {
    "pretrain": PretrainRecipe,
    "semantic": SemanticRecipe,
    "instance": InstanceRecipe,
    "rooms": RoomsRecipe,
}
