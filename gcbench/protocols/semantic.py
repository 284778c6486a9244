"""Semantic segmentation: train in full or probe a frozen encoder, then score the scenes of the cell.

Shape legend: N points, F feature channels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import SegmentationBatches, evaluation_sample
from gcbench.data.storage import PreparedDataset
from gcbench.models.segmentation import EncoderState, Segmenter
from gcbench.models.sparse_unet import reestimate_batchnorm
from gcbench.objectives.supervised import segmentation_loss
from gcbench.protocols.downstream import Training, labelled_points
from gcbench.protocols.encoders import build_encoder, load_encoder
from gcbench.protocols.jobs import SemanticJob
from gcbench.protocols.results import job_origin, now, semantic_result
from gcbench.protocols.semantic_inference import SceneInference
from gcbench.protocols.trained_models import ModelConfig
from gcbench.recipe.schema import SemanticRecipe
from gcbench.runs.results import SemanticResult
from gcbench.runs.store import Run
from gcbench.scoring.semantic import SemanticMetrics
from gcbench.structures import IGNORE_INDEX, PointBatch
from gcbench.training.gather import gather_rows
from gcbench.training.generators import seed_generators
from gcbench.training.loop import Report, Shares, StepOutput, Stop


def segment(job: SemanticJob, run: Run, report: Report, stop: Stop) -> SemanticResult:
    """Run a `SemanticJob`.

    Raises:
        DataError: the dataset lacks the splits, the labels or the encoder.
        RunError: training diverged.
    """
    started = now()
    recipe = job.recipe.build()
    assert isinstance(recipe, SemanticRecipe)
    dataset = PreparedDataset.open(job.data)
    label_set = load_label_set(job.label_set)
    config = ModelConfig(
        task="semantic",
        label_set=label_set.name,
        grid_size=recipe.data.grid_size,
        encoder=recipe.encoder,
        level=recipe.probe.level,
        evaluation=recipe.evaluation.protocol,
        origin=job_origin(job, dataset),
    )
    training: Training[SemanticMetrics] = Training(
        job, recipe, dataset, run, config=config, metric="mIoU", report=report, stop=stop
    )
    seed_generators(job.seed)
    model = Segmenter(
        build_encoder(recipe.encoder),
        len(label_set),
        level=recipe.probe.level,
        frozen=recipe.probe.frozen,
        batchnorm=recipe.probe.batchnorm,
    )
    if job.encoder is not None:
        load_encoder(model.encoder, job.encoder)
    before = EncoderState.of(model.encoder)
    _Learning(training, recipe, model).run(
        SceneInference(recipe.evaluation.single_pass(), recipe.data.grid_size, label_set)
    )
    metrics = training.final(SceneInference(recipe.evaluation, recipe.data.grid_size, label_set), model)
    after = EncoderState.of(model.encoder)
    if recipe.probe.frozen:
        assert after.parameters == before.parameters, f"the frozen encoder changed: {before}, {after}"
        moves = recipe.probe.batchnorm != "frozen"
        assert moves or after.buffers == before.buffers, f"the frozen batch norm changed: {before}, {after}"
    return semantic_result(job, recipe, training, metrics, started, (before, after))


class _Learning:
    """Both ways to train a segmenter."""

    def __init__(self, training: Training[SemanticMetrics], recipe: SemanticRecipe, model: Segmenter) -> None:
        self.training, self.recipe, self.model = training, recipe, model

    def run(self, validation: SceneInference) -> None:
        """Train, as the recipe says."""
        if self.recipe.probe.frozen and self.recipe.probe.batchnorm == "reestimated":
            self._reestimate()
        if self.recipe.probe.features == "extracted":
            self._on_extracted_features(validation)
        else:
            self._online(validation)

    def _online(self, validation: SceneInference) -> None:
        """Every step runs the whole model on augmented crops."""
        training, recipe = self.training, self.recipe
        samples = training.samples(crop_points=recipe.data.crop_points)
        batches = SegmentationBatches(
            samples, batch_size=recipe.schedule.batch_size, mix3d_p=recipe.data.mix3d_p, share=training.share
        )

        def weigh(batch: PointBatch) -> tuple[float]:
            assert batch.segment is not None
            return (labelled_points(batch.segment),)

        def step(module: nn.Module, batch: PointBatch, shares: Shares) -> StepOutput:
            batch = batch.to(training.device)
            assert batch.segment is not None
            return self._losses(module(batch), batch.segment, shares)

        training.run(
            self.model,
            training.batches(batches),
            step,
            weigh,
            model=self.model,
            validation=validation,
        )

    def _on_extracted_features(self, validation: SceneInference) -> None:
        """The encoder runs once on every training scene; the linear layer trains on random points of all scenes."""
        training = self.training
        features, segment = self._extract()
        count = self.recipe.schedule.batch_size * (self.recipe.data.crop_points or 0) or len(segment)

        def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            for number in range(first, training.total):
                generator = torch.Generator().manual_seed(training.job.seed * 1_000_003 + number)
                rows = torch.randint(len(segment), (min(count, len(segment)),), generator=generator)
                for part in training.share.of(rows):
                    yield features[part], segment[part]

        def weigh(batch: tuple[Tensor, Tensor]) -> tuple[float]:
            return (labelled_points(batch[1]),)

        def step(module: nn.Module, batch: tuple[Tensor, Tensor], shares: Shares) -> StepOutput:
            return self._losses(module(batch[0].to(training.device)), batch[1].to(training.device), shares)

        training.run(self.model.head, batches, step, weigh, model=self.model, validation=validation)

    def _reestimate(self) -> None:
        """Measure the frozen encoder's batch-norm statistics on the training scenes, as they are."""
        self.model.to(self.training.device)
        reestimate_batchnorm(self.model.encoder, self.model.features, self._scenes("batch norm"))

    def _extract(self) -> tuple[Tensor, Tensor]:
        """Features [N, F] float32 and classes [N] of all labelled voxels of the training scenes."""
        self.model.to(self.training.device).eval()
        parts = []
        with torch.no_grad():
            for batch in self._scenes("features"):
                assert batch.segment is not None
                labelled = batch.segment != IGNORE_INDEX
                parts.append((self.model.features(batch)[labelled].cpu(), batch.segment[labelled].cpu()))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _scenes(self, phase: str) -> Iterator[PointBatch]:
        training = self.training
        names, labelled = training.set.names, training.set.labelled
        for number, name in enumerate(names, start=1):
            sample = evaluation_sample(
                training.dataset.scene(name),
                grid_size=self.recipe.data.grid_size,
                label_set=training.job.label_set,
                labelled=None if labelled is None else labelled[name],
            )
            training.report({"event": "progress", "step": number, "total": len(names), "phase": phase})
            yield collate([sample.points]).to(training.device)

    def _losses(self, logits: Tensor, segment: Tensor, shares: Shares) -> StepOutput:
        weights = self.recipe.losses
        loss = segmentation_loss(
            logits,
            segment,
            cross_entropy_weight=weights.cross_entropy,
            lovasz_weight=weights.lovasz,
            share=shares[0],
            gather=gather_rows,
        )
        values = {"loss": loss.total, "cross_entropy": loss.cross_entropy, "lovasz": loss.lovasz}
        return StepOutput(loss.total, {name: value.detach() for name, value in values.items()})
