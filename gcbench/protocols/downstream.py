"""What training a segmentation model shares, whether it finds classes or instances: scenes and labels, budget,
evaluations while it trains, and the last and the best model, which are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from gcbench.data.samples import SegmentationSamples, Share
from gcbench.data.storage import PreparedDataset
from gcbench.data.subsets import SceneSubset, load
from gcbench.data.transforms import SegmentationAugmentation
from gcbench.errors import DataError
from gcbench.protocols.jobs import SegmentationJob
from gcbench.protocols.loading import Numbered, shared_memory_warning, steps
from gcbench.protocols.predictions import Inference, score_scenes
from gcbench.protocols.pretrain_checks import check_batch
from gcbench.protocols.trained_models import KeptModels, ModelConfig, load_weights
from gcbench.recipe.schema import SegmentationRecipe
from gcbench.runs.results import Budget
from gcbench.runs.store import Run
from gcbench.scoring.instance import InstanceMetrics
from gcbench.scoring.semantic import SemanticMetrics
from gcbench.structures import IGNORE_INDEX, Int64Array
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Report, Shares, StepOutput, Stop, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler
from gcbench.training.trackers import Trackers

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


def labelled_points(segment: Tensor) -> int:
    """How many points of a batch have a label."""
    return int((segment != IGNORE_INDEX).sum())


class Training(Generic[Metrics]):
    """One training of a job, in each of the processes that share it.

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
        InputError: the precision needs a GPU, or the processes cannot share a batch evenly.
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
        self.device, processes = self.accelerator.device, self.accelerator.num_processes
        check_batch(recipe.schedule.batch_size, processes, recipe.run.accumulate)
        self.share = Share(self.accelerator.process_index, processes, recipe.run.accumulate)
        self.folder = run.folder
        self.kept = KeptModels(run.folder / "models", config, metric)
        self.predictions = run.folder / "predictions"
        self.checkpoints = Checkpoints(
            run.checkpoints,
            keep=recipe.run.keep_checkpoints,
            warn=lambda message: report({"event": "warning", "message": message}),
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

    def batches(self, numbered: Numbered[Any]) -> Callable[[int], Iterator[Any]]:
        """From a step number to the batches from there on, made by as many processes as the recipe says."""
        run = self.recipe.run
        warning = shared_memory_warning(numbered[0], run.workers) if run.workers else None
        if warning:
            self.report({"event": "warning", "kind": "shared-memory", "message": warning})
        return lambda first: steps(
            numbered, first, self.total, run.workers, parts=run.accumulate, pin=self.device.type == "cuda"
        )

    def run(
        self,
        trained: nn.Module,
        batches: Callable[[int], Iterator[Any]],
        step: Callable[[nn.Module, Any, Shares], StepOutput],
        weigh: Callable[[Any], Sequence[float]],
        *,
        model: nn.Module,
        validation: Inference[Metrics],
    ) -> None:
        """Train to the end of the budget, or go on; the last and the best model are kept.

        Args:
            trained: what is trained: the model, or the part of it that is.
            batches: from a step number to the parts of this process's share from there on.
            step: one forward pass.
            weigh: counts of a part that the terms of its loss are means over, see `train`.
            model: what is evaluated and kept.
            validation: how scenes are predicted while training.
        """

        def evaluate(done: int) -> Mapping[str, float]:
            if not done:
                return {}
            last = done == self.total
            means = self.score(validation, model, keep=last).means()
            if self.accelerator.is_main_process:
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
                    schedule.batch_size // self.share.processes,
                    schedule.round_steps(self.total),
                    faults=self.folder / "faults",
                    trackers=Trackers(self.folder, self.job.name, self.job.recipe.values),
                ),
                self.checkpoints,
                accelerator=self.accelerator,
                report=self.report,
                stop_requested=self.stop,
                evaluate=evaluate,
                weigh=weigh,
            )

    def final(self, inference: Inference[Metrics], model: nn.Module) -> Metrics:
        """Load the model that the recipe wants scored, and score it; the processes part after that."""
        load_weights(model, self.kept.file(self.recipe.evaluation.checkpoint))
        metrics = self.score(inference, model, keep=True)
        self.accelerator.end_training()
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
            processes=self.share.processes,
        )
