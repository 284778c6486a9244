"""Instance segmentation: train PointGroup, group the points of every scene, score the proposals on the original points.

Shape legend: N original points, M voxels, P proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.labels import load_label_set
from gcbench.data.samples import EvaluationSample, SegmentationBatches, evaluation_sample
from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError
from gcbench.models.pointgroup import PointGroup, Proposals, propose
from gcbench.models.segmentation import EncoderState
from gcbench.objectives.instance import offset_losses
from gcbench.objectives.supervised import segmentation_loss
from gcbench.protocols.downstream import Training, labelled_points
from gcbench.protocols.encoders import build_encoder, load_encoder
from gcbench.protocols.jobs import InstanceJob
from gcbench.protocols.predictions import Arrays
from gcbench.protocols.results import instance_result, job_origin, now
from gcbench.protocols.semantic_inference import nearest_voxel
from gcbench.protocols.trained_models import ModelConfig
from gcbench.recipe.schema import Grouping, InstanceRecipe
from gcbench.runs.results import InstanceResult
from gcbench.runs.store import Run
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.instance_overlaps import SceneOverlaps
from gcbench.scoring.protocols import Protocol, load_protocol
from gcbench.structures import Int64Array, LabelSet, PointBatch, Scene
from gcbench.training.gather import gather_rows
from gcbench.training.generators import seed_generators
from gcbench.training.loop import Report, Shares, StepOutput, Stop


def segment_instances(job: InstanceJob, run: Run, report: Report, stop: Stop) -> InstanceResult:
    """Run an `InstanceJob`.

    Raises:
        DataError: the dataset lacks the splits, the labels, the instances or the encoder.
        RunError: training diverged.
    """
    started = now()
    recipe = job.recipe.build()
    assert isinstance(recipe, InstanceRecipe)
    dataset = PreparedDataset.open(job.data)
    label_set = load_label_set(job.label_set)
    config = ModelConfig(
        task="instance",
        label_set=label_set.name,
        grid_size=recipe.data.grid_size,
        encoder=recipe.encoder,
        grouping=recipe.grouping,
        evaluation=recipe.evaluation.protocol,
        origin=job_origin(job, dataset),
    )
    training: Training[InstanceMetrics] = Training(
        job, recipe, dataset, run, config=config, metric="mAP50", report=report, stop=stop
    )
    inference = InstanceInference(
        recipe.grouping, recipe.data.grid_size, label_set, load_protocol(recipe.evaluation.protocol)
    )
    _check_instances(training, inference.counted)
    seed_generators(job.seed)
    model = PointGroup(build_encoder(recipe.encoder), len(label_set))
    if job.encoder is not None:
        load_encoder(model.encoder, job.encoder)
    _learn(training, recipe, model, inference)
    metrics = training.final(inference, model)
    return instance_result(job, recipe, training, metrics, started, EncoderState.of(model.encoder))


@dataclass(frozen=True)
class InstanceInference:
    """How the instances of a scene are found.

    Attributes:
        grouping: from points, classes and offsets to proposals.
        grid_size: voxel edge, metres.
        label_set: the classes.
        protocol: how they are scored, and which classes have instances.
    """

    grouping: Grouping
    grid_size: float
    label_set: LabelSet
    protocol: Protocol

    @property
    def counted(self) -> Int64Array:
        """Classes that have instances."""
        return self.protocol.instance.evaluated_classes(self.label_set)

    def settings(self) -> dict[str, Any]:
        """All that decides a prediction but the weights and the data, as JSON."""
        return {
            "grouping": self.grouping.model_dump(mode="json"),
            "grid_size": self.grid_size,
            "label_set": self.label_set.name,
            "counted": self.counted.tolist(),
        }

    def propose(self, model: nn.Module, scene: Scene, device: torch.device) -> Proposals:
        """Proposals on the original points of a scene.

        Args:
            model: maps a `PointBatch` to logits and offsets; in eval mode, on `device`.
            scene: the scene.
            device: where the model is.
        """
        sample = evaluation_sample(scene, grid_size=self.grid_size, label_set=self.label_set.name)
        with torch.no_grad():
            logits, offsets = model(collate([sample.points]).to(device))
        return self.group(sample, logits, offsets).at(nearest_voxel(sample))

    def group(self, sample: EvaluationSample, logits: Tensor, offsets: Tensor) -> Proposals:
        """Proposals on the M voxels of a sample, from logits [M, K] and offsets [M, 3]."""
        return propose(
            torch.from_numpy(sample.points.coord),
            offsets.float().cpu(),
            logits.cpu(),
            grid_size=self.grid_size,
            radius=self.grouping.radius,
            cluster_minimum=self.grouping.cluster_minimum,
            proposal_minimum=self.grouping.proposal_minimum,
            ignored=sorted(set(range(len(self.label_set))) - set(self.counted.tolist())),
        )

    def predict(self, model: nn.Module, scene: Scene, device: torch.device) -> Arrays:
        """``classes`` [P], ``scores`` [P] and ``of_point`` [N], see `Proposals`."""
        proposals = self.propose(model, scene, device)
        return {
            "classes": proposals.classes,
            "scores": proposals.scores,
            "of_point": proposals.of_point.astype(np.int32),
        }

    def scorer(self) -> ProposalScorer:
        """An empty scorer."""
        return ProposalScorer(self)


class ProposalScorer:
    """Scores the predictions of an `InstanceInference` under its protocol."""

    def __init__(self, inference: InstanceInference) -> None:
        self._labels = inference.label_set.name
        self._scorer = InstanceScorer(inference.label_set, inference.protocol)

    def measure(self, scene: Scene, prediction: Arrays) -> SceneOverlaps:
        """Sizes and intersections of one scene.

        Raises:
            DataError: the scene has no labels or no instances.
        """
        segment = scene.segments.get(self._labels)
        if segment is None or scene.instance is None:
            raise DataError(
                f"Scene '{scene.name}' has no classes of {self._labels}, or no instances.", "Score a split that has."
            )
        proposals = Proposals(prediction["classes"], prediction["scores"], prediction["of_point"].astype(np.int64))
        return self._scorer.measure(
            scene.name,
            InstancePredictions(proposals.classes, proposals.scores, proposals.masks()),
            InstanceTarget(segment.astype(np.int64), scene.instance.astype(np.int64)),
        )

    def insert(self, scene_name: str, overlaps: SceneOverlaps) -> None:
        """Add a scene that was measured."""
        self._scorer.insert(scene_name, overlaps)

    def result(self) -> InstanceMetrics:
        """The metrics over all scenes."""
        return self._scorer.result()


def _learn(
    training: Training[InstanceMetrics], recipe: InstanceRecipe, model: PointGroup, inference: InstanceInference
) -> None:
    samples = training.samples(crop_share=recipe.data.crop_share, instance_classes=inference.counted)
    batches = SegmentationBatches(samples, batch_size=recipe.schedule.batch_size, mix3d_p=0.0, share=training.share)
    weights = recipe.losses

    def weigh(batch: PointBatch) -> tuple[float, float]:
        assert batch.segment is not None and batch.centroid is not None
        return labelled_points(batch.segment), int(batch.centroid[:, 0].isfinite().sum())

    def step(module: nn.Module, batch: PointBatch, shares: Shares) -> StepOutput:
        batch = batch.to(training.device)
        assert batch.segment is not None and batch.centroid is not None
        logits, offsets = module(batch)
        classes = segmentation_loss(
            logits,
            batch.segment,
            cross_entropy_weight=weights.cross_entropy,
            lovasz_weight=weights.lovasz,
            share=shares[0],
            gather=gather_rows,
        )
        moves = offset_losses(offsets.float(), batch.coord, batch.centroid, batch.centroid[:, 0].isfinite())
        l1, cosine = shares[1] * moves.l1, shares[1] * moves.cosine
        total = classes.total + weights.offset_l1 * l1 + weights.offset_cosine * cosine
        values = {"loss": total, "cross_entropy": classes.cross_entropy, "offset": l1, "cosine": cosine}
        return StepOutput(total, {name: value.detach() for name, value in values.items()})

    training.run(
        model,
        training.batches(batches),
        step,
        weigh,
        model=model,
        validation=inference,
    )


def _check_instances(training: Training[InstanceMetrics], counted: Int64Array) -> None:
    """Every training scene has instances, and some are of a counted class.

    Raises:
        DataError: they do not.
    """
    found = False
    for name in training.set.names:
        scene = training.dataset.scene(name)
        if scene.instance is None:
            raise DataError(
                f"Scene '{name}' of {training.dataset.root} has no instances.", "Train on splits that have."
            )
        segment = scene.segments[training.job.label_set]
        found = found or bool((np.isin(segment, counted) & (scene.instance >= 0)).any())
    if not found:
        raise DataError(
            f"None of the {len(training.set.names)} training scenes in {training.dataset.root} has an instance of a "
            f"class of {training.job.label_set} that counts.",
            "Check that the data was prepared with its instances: gcbench data audit.",
        )
