"""Semantic segmentation: train in full or probe a frozen encoder, then score the validation scenes.

Shape legend: N points, F feature channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import SegmentationBatches, SegmentationSamples, evaluation_sample
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import SegmentationAugmentation
from gcbench.errors import DataError
from gcbench.models.segmentation import EncoderState, Segmenter
from gcbench.models.sparse_unet import reestimate_batchnorm
from gcbench.objectives.supervised import segmentation_loss
from gcbench.protocols.encoders import build_encoder, load_encoder
from gcbench.protocols.jobs import SemanticJob
from gcbench.protocols.loading import steps
from gcbench.protocols.results import now, semantic_result
from gcbench.protocols.semantic_inference import PredictionCache, SceneInference
from gcbench.recipe.schema import SemanticRecipe
from gcbench.runs.results import Result
from gcbench.runs.store import Run
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticMetrics, SemanticScorer
from gcbench.structures import IGNORE_INDEX, PointBatch
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Report, StepOutput, Stop, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler


def train_and_score(job: SemanticJob, run: Run, report: Report, stop: Stop) -> Result:
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
    torch.manual_seed(job.seed)
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
    training = _Training(job, recipe, dataset, run, report, stop)
    if recipe.probe.frozen and recipe.probe.batchnorm == "reestimated":
        training.reestimate(model)
    trained = training.on_extracted_features(model) if recipe.probe.features == "extracted" else training.online(model)
    after = EncoderState.of(trained.encoder)
    if recipe.probe.frozen:
        assert after.parameters == before.parameters, f"the frozen encoder changed: {before}, {after}"
        moves = recipe.probe.batchnorm != "frozen"
        assert moves or after.buffers == before.buffers, f"the frozen batch norm changed: {before}, {after}"
    metrics = score(
        trained,
        SceneInference(recipe.evaluation, recipe.data.grid_size, label_set),
        dataset,
        dataset.scene_names(job.val),
        run.folder / "predictions",
        training.device,
        report,
    )
    return semantic_result(job, recipe, dataset, metrics, started, (before, after))


class _Training:
    """What both ways of training share."""

    def __init__(
        self, job: SemanticJob, recipe: SemanticRecipe, dataset: PreparedDataset, run: Run, report: Report, stop: Stop
    ) -> None:
        self.job, self.recipe, self.dataset, self.report, self.stop = job, recipe, dataset, report, stop
        self.names = dataset.scene_names(job.train)
        self.total = recipe.schedule.total_steps(len(self.names))
        self.accelerator = build_accelerator(recipe.run.precision)
        self.device = self.accelerator.device
        self.checkpoints = Checkpoints(
            run.folder / "checkpoints", warn=lambda message: report({"event": "warning", "message": message})
        )

    def online(self, model: Segmenter) -> Segmenter:
        """Every step runs the whole model on augmented crops."""
        recipe = self.recipe
        samples = SegmentationSamples(
            self.dataset,
            self.names,
            label_set=self.job.label_set,
            grid_size=recipe.data.grid_size,
            crop_points=recipe.data.crop_points,
            augmentation=SegmentationAugmentation(**recipe.augmentation.model_dump()),
            seed=self.job.seed,
        )
        batches = SegmentationBatches(samples, batch_size=recipe.schedule.batch_size, mix3d_p=recipe.data.mix3d_p)

        def step(module: nn.Module, batch: PointBatch) -> StepOutput:
            batch = batch.to(self.device)
            assert batch.segment is not None
            return self._losses(module(batch), batch.segment)

        trained = self._train(model, lambda first: steps(batches, first, self.total, recipe.run.workers), step)
        assert isinstance(trained, Segmenter)
        return trained

    def on_extracted_features(self, model: Segmenter) -> Segmenter:
        """The encoder runs once on every training scene; the linear layer trains on random points of all scenes."""
        features, segment = self._extract(model)
        count = self.recipe.schedule.batch_size * (self.recipe.data.crop_points or 0) or len(segment)

        def batches(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            for number in range(first, self.total):
                generator = torch.Generator().manual_seed(self.job.seed * 1_000_003 + number)
                rows = torch.randint(len(segment), (min(count, len(segment)),), generator=generator)
                yield features[rows], segment[rows]

        def step(module: nn.Module, batch: tuple[Tensor, Tensor]) -> StepOutput:
            return self._losses(module(batch[0].to(self.device)), batch[1].to(self.device))

        self._train(model.head, batches, step)
        return model

    def reestimate(self, model: Segmenter) -> None:
        """Measure the frozen encoder's batch-norm statistics on the training scenes, as they are."""
        model.to(self.device)
        reestimate_batchnorm(model.encoder, model.features, self._scenes("batch norm"))

    def _extract(self, model: Segmenter) -> tuple[Tensor, Tensor]:
        """Features [N, F] float32 and classes [N] of all labelled voxels of the training scenes."""
        model.to(self.device).eval()
        parts = []
        with torch.no_grad():
            for batch in self._scenes("features"):
                assert batch.segment is not None
                labelled = batch.segment != IGNORE_INDEX
                parts.append((model.features(batch)[labelled].cpu(), batch.segment[labelled].cpu()))
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _scenes(self, phase: str) -> Iterator[PointBatch]:
        for number, name in enumerate(self.names, start=1):
            sample = evaluation_sample(
                self.dataset.scene(name), grid_size=self.recipe.data.grid_size, label_set=self.job.label_set
            )
            self.report({"event": "progress", "step": number, "total": len(self.names), "phase": phase})
            yield collate([sample.points]).to(self.device)

    def _losses(self, logits: Tensor, segment: Tensor) -> StepOutput:
        weights = self.recipe.losses
        loss = segmentation_loss(
            logits, segment, cross_entropy_weight=weights.cross_entropy, lovasz_weight=weights.lovasz
        )
        values = {"loss": loss.total, "cross_entropy": loss.cross_entropy, "lovasz": loss.lovasz}
        return StepOutput(loss.total, {name: float(value.detach()) for name, value in values.items()})

    def _train(
        self, model: nn.Module, batches: Callable[[int], Iterator[Any]], step: Callable[..., StepOutput]
    ) -> nn.Module:
        recipe = self.recipe
        optimizer = build_optimizer(model.parameters(), recipe.optimizer)
        with self.stop.deferred():
            return train(
                model,
                optimizer,
                build_scheduler(optimizer, recipe.schedule, self.total),
                batches,
                step,
                LoopSettings(self.total, recipe.run, recipe.optimizer.clip_norm),
                self.checkpoints,
                accelerator=self.accelerator,
                report=self.report,
                stop_requested=self.stop,
            )


def score(
    model: Segmenter,
    inference: SceneInference,
    dataset: PreparedDataset,
    names: Sequence[str],
    predictions: Path,
    device: torch.device,
    report: Report,
) -> SemanticMetrics:
    """Predict and score scenes one by one, as the recipe says; what was predicted before is taken from `predictions`.

    Raises:
        DataError: a scene has no labels, or there is no scene.
    """
    scorer = SemanticScorer(inference.label_set, load_protocol(inference.evaluation.protocol))
    model.to(device).eval()
    cache = PredictionCache(predictions / inference.key(model, dataset.fingerprint))
    for number, name in enumerate(names, start=1):
        scene = dataset.scene(name)
        target = inference.target(scene)
        classes = cache.load(name, len(target))
        if classes is None:
            classes = inference.predict(model, scene, device)
            cache.store(name, classes)
        scorer.add(name, classes, target)
        report({"event": "progress", "step": number, "total": len(names), "phase": "scoring"})
    if not names:
        raise DataError(f"There is no scene to score in {dataset.root}.", "Check the splits of the table's column.")
    metrics = scorer.result()
    report({"event": "score", "mIoU": metrics.miou, "mAcc": metrics.macc, "allAcc": metrics.allacc})
    return metrics
