"""What training a segmentation model shares, whether it finds classes or instances: scenes and labels, budget,
evaluations while it trains, and the last and the best model, which are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import nn

from gcbench.data.samples import SegmentationSamples
from gcbench.data.storage import PreparedDataset
from gcbench.data.subsets import SceneSubset, load
from gcbench.data.transforms import SegmentationAugmentation
from gcbench.errors import DataError
from gcbench.protocols.jobs import SegmentationJob
from gcbench.protocols.predictions import Inference, score_scenes
from gcbench.protocols.trained_models import KeptModels, ModelConfig, load_weights
from gcbench.recipe.schema import SegmentationRecipe
from gcbench.runs.results import Budget
from gcbench.runs.store import Run
from gcbench.scoring.instance import InstanceMetrics
from gcbench.scoring.semantic import SemanticMetrics
from gcbench.structures import Int64Array
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Report, StepOutput, Stop, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

Metrics = TypeVar("Metrics", SemanticMetrics, InstanceMetrics)


@dataclass(frozen=True)
class TrainingSet:
    """The scenes of a training, and which of their labels it may use.

    Attributes:
        names: the scenes.
        labelled: scene -> ids of the points whose labels are kept (limited annotations); None keeps all.
        labelled_points: how many labels there are.
    """

    names: tuple[str, ...]
    labelled: Mapping[str, Int64Array] | None
    labelled_points: int

    @classmethod
    def of(cls, dataset: PreparedDataset, job: SegmentationJob) -> TrainingSet:
        """What a job trains on.

        Raises:
            DataError: the data-efficient set is missing, the dataset lacks the label set, or no point has a label.
        """
        names, labelled = dataset.scene_names(job.train), None
        if job.limit is not None:
            subset = load(dataset, job.limit)
            if isinstance(subset, SceneSubset):
                names = subset.scenes
            else:
                names = tuple(subset.points)
                labelled = {name: np.array(ids, np.int64) for name, ids in subset.points.items()}
        if job.label_set not in dataset.label_sets:
            known = ", ".join(dataset.label_sets) or "none"
            raise DataError(f"{dataset.root} has no labels '{job.label_set}'.", f"It has: {known}.")
        count = 0
        for name in names:
            segment = dataset.scene(name).segments.get(job.label_set)
            if segment is not None:
                count += int(((segment if labelled is None else segment[labelled[name]]) >= 0).sum())
        if not count:
            raise DataError(
                f"None of the points of the {len(names)} training scenes in {dataset.root} has a class of "
                f"{job.label_set}: there is nothing to learn from.",
                "Check the splits, and that the data was prepared with its labels: gcbench data audit.",
            )
        return cls(names, labelled, count)


class Training(Generic[Metrics]):
    """One training of a job.

    Args:
        job: what to train.
        recipe: its recipe, built.
        dataset: the prepared data.
        run: where checkpoints and models lie.
        config: of the models that are kept.
        metric: which mean decides what is best.
        report: gets events.
        stop: asked after every step.

    Raises:
        DataError: see `TrainingSet.of`.
        InputError: the precision needs a GPU.
    """

    def __init__(
        self,
        job: SegmentationJob,
        recipe: SegmentationRecipe,
        dataset: PreparedDataset,
        run: Run,
        *,
        config: ModelConfig,
        metric: str,
        report: Report,
        stop: Stop,
    ) -> None:
        self.job, self.recipe, self.dataset, self.report, self.stop = job, recipe, dataset, report, stop
        self.set = TrainingSet.of(dataset, job)
        self.total = recipe.schedule.total_steps(len(self.set.names))
        self.accelerator = build_accelerator(recipe.run.precision)
        self.device = self.accelerator.device
        self.kept = KeptModels(run.folder / "models", config, metric)
        self.predictions = run.folder / "predictions"
        self.checkpoints = Checkpoints(
            run.folder / "checkpoints", warn=lambda message: report({"event": "warning", "message": message})
        )

    def samples(
        self,
        *,
        crop_points: int | None = None,
        crop_share: float | None = None,
        instance_classes: Int64Array | None = None,
    ) -> SegmentationSamples:
        """Augmented crops of the training scenes, see `SegmentationSamples`."""
        return SegmentationSamples(
            self.dataset,
            self.set.names,
            label_set=self.job.label_set,
            grid_size=self.recipe.data.grid_size,
            crop_points=crop_points,
            crop_share=crop_share,
            augmentation=SegmentationAugmentation(**self.recipe.augmentation.model_dump()),
            seed=self.job.seed,
            labelled=self.set.labelled,
            instance_classes=None if instance_classes is None else tuple(instance_classes.tolist()),
        )

    def run(
        self,
        trained: nn.Module,
        batches: Callable[[int], Iterator[Any]],
        step: Callable[..., StepOutput],
        *,
        model: nn.Module,
        validation: Inference[Metrics],
    ) -> None:
        """Train to the end of the budget, or go on; the last and the best model are kept.

        Args:
            trained: what is trained: the model, or the part of it that is.
            batches: from a step number to the batches from there on.
            step: one forward pass.
            model: what is evaluated and kept.
            validation: how scenes are predicted while training.
        """

        def evaluate(done: int) -> Mapping[str, float]:
            if not done:
                return {}
            last = done == self.total
            means = self.score(validation, model, keep=last).means()
            self.kept.offer(model, done, means)
            if last:
                self.kept.keep("last", model, done, means)
            return means

        optimizer = build_optimizer(trained.parameters(), self.recipe.optimizer)
        schedule = self.recipe.schedule
        with self.stop.deferred():
            train(
                trained,
                optimizer,
                build_scheduler(optimizer, schedule, self.total),
                batches,
                step,
                LoopSettings(
                    self.total,
                    self.recipe.run,
                    self.recipe.optimizer.clip_norm,
                    round_steps=schedule.round_steps(self.total),
                ),
                self.checkpoints,
                accelerator=self.accelerator,
                report=self.report,
                stop_requested=self.stop,
                evaluate=evaluate,
            )

    def final(self, inference: Inference[Metrics], model: nn.Module) -> Metrics:
        """Load the model that the recipe wants scored, and score it."""
        load_weights(model, self.kept.file(self.recipe.evaluation.checkpoint))
        metrics = self.score(inference, model, keep=True)
        self.report({"event": "score", **metrics.means()})
        return metrics

    def score(self, inference: Inference[Metrics], model: nn.Module, *, keep: bool) -> Metrics:
        """Score a model on the scenes of the cell; `keep` keeps the predictions, for a scoring that is cut off."""
        names = self.dataset.scene_names(self.job.val)
        kept = self.predictions if keep else None
        return score_scenes(inference, model, self.dataset, names, self.device, self.report, kept=kept)

    def budget(self) -> Budget:
        """What the training saw."""
        schedule = self.recipe.schedule
        samples = self.total * schedule.batch_size
        return Budget(
            scenes=len(self.set.names),
            labelled_points=self.set.labelled_points,
            steps=self.total,
            samples=samples,
            passes=samples / len(self.set.names),
            epochs=schedule.epochs,
        )
