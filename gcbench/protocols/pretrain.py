"""GaussianCross pre-training: from scenes with posed frames to an exported encoder.

Shape legend: V views of a scene, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gcbench import __version__
from gcbench.data.batching import collate
from gcbench.data.samples import PretrainSample, PretrainSamples, Share
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import GeometricAugmentation
from gcbench.errors import refusing
from gcbench.files import short_sha256
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.sparse_unet import SparseUNet
from gcbench.objectives.pretraining import psnr
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.protocols.jobs import PretrainJob
from gcbench.protocols.loading import shared_memory_warning, steps
from gcbench.protocols.pretrain_checks import check_batch, check_data
from gcbench.protocols.pretrain_evaluation import HeldOutEvaluation
from gcbench.protocols.pretrain_objective import PretrainingObjective
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.results import now, provenance
from gcbench.recipe.schema import PretrainRecipe
from gcbench.reporting.run_figures import draw_pretraining, panel_path
from gcbench.runs.results import CurvePoint, PretrainResult
from gcbench.runs.store import Run
from gcbench.structures import PointBatch, PosedViews
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.generators import seed_generators
from gcbench.training.loop import LoopSettings, Report, Shares, StepOutput, Stop, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler
from gcbench.training.trackers import Trackers

PretrainBatch = tuple[PointBatch, list[PosedViews]]

_WARNINGS = {
    "no-depth": "no view has valid depth, so depth taught nothing",
    "nothing-in-view": "no Gaussian lies in its views",
    "one-point": "a single point was left to encode",
    "all-pruned": "no Gaussian was above the opacity threshold, so the most opaque ones were kept",
}


class PretrainBatches:
    """``batches[n]``: part n of a share of a pre-training set, points collated, views per scene.

    Args:
        samples: the set.
        batch_size: scenes per step.
        share: whose parts.
    """

    def __init__(self, samples: PretrainSamples, batch_size: int, share: Share | None = None) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.share = share or Share()

    def __getitem__(self, number: int) -> PretrainBatch:
        return join([self.samples[k] for k in self.share.samples(number, self.batch_size)])


def join(samples: Sequence[PretrainSample]) -> PretrainBatch:
    """Samples of several scenes as one batch."""
    return collate([sample.points for sample in samples]), [sample.views for sample in samples]


def pretrain_samples(recipe: PretrainRecipe, dataset: PreparedDataset, seed: int) -> PretrainSamples:
    """The training samples of a recipe.

    Raises:
        DataError: the dataset has no such split, or scenes without frames.
    """
    return PretrainSamples(
        dataset,
        dataset.scene_names(recipe.data.splits),
        grid_size=recipe.data.grid_size,
        mask_ratio=recipe.data.mask_ratio,
        mask_block=recipe.data.mask_block,
        views=recipe.data.views,
        view_size=(recipe.data.view_width, recipe.data.view_height),
        holdout_every=recipe.data.holdout_every,
        augmentation=GeometricAugmentation(**recipe.augmentation.model_dump()),
        seed=seed,
    )


def pretrain(job: PretrainJob, run: Run, report: Report, stop: Stop) -> PretrainResult | None:
    """Run a `PretrainJob`: check, train, measure held-out views, export the encoder to `RUN/encoder/`.

    Of several processes the first one returns the result, the others None.

    Raises:
        RefusedError: before anything else. The dataset has no such split, its frames cannot be trained on, or the
            recipe asks for what there is not: a teacher, a GPU, an even share of a batch.
        RunError: training diverged.
    """
    with refusing():
        ready = _Pretraining(job, run, report, stop)
    return ready.run_to_end()


class _Pretraining:
    def __init__(self, job: PretrainJob, run: Run, report: Report, stop: Stop) -> None:
        self.job, self.run, self.report, self.stop = job, run, report, stop
        self.started = now()
        recipe = job.recipe.build()
        assert isinstance(recipe, PretrainRecipe)
        self.recipe = recipe
        self.accelerator = build_accelerator(recipe.run.precision)
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        check_batch(recipe.schedule.batch_size, self.processes, recipe.run.accumulate)
        self.dataset = PreparedDataset.open(job.data)
        self.checkpoints = Checkpoints(
            run.checkpoints,
            keep=recipe.run.keep_checkpoints,
            warn=lambda message: self.report({"event": "warning", "message": message}),
        )
        with self.accelerator.main_process_first():  # the others find the teacher downloaded
            self.objective = PretrainingObjective(recipe, self.dataset, self.device)
            if self.accelerator.is_main_process and not self.checkpoints.steps():
                self._check()
        self.samples = pretrain_samples(recipe, self.dataset, job.seed)
        batch_size = recipe.schedule.batch_size // self.processes
        self.evaluation = HeldOutEvaluation(self.samples, recipe, self.objective, batch_size)
        seed_generators(job.seed)
        self.model = build_pretrainer(recipe, build_encoder(recipe.encoder), self.objective.teacher_dim)

    def run_to_end(self) -> PretrainResult | None:
        """Train, export, and put the result together from the log."""
        recipe = self.recipe
        total = recipe.schedule.total_steps(len(self.samples))
        optimizer = build_optimizer(self.model.parameters(), recipe.optimizer)
        run = recipe.run
        share = Share(self.accelerator.process_index, self.processes, run.accumulate)
        batches = PretrainBatches(self.samples, recipe.schedule.batch_size, share)
        warning = shared_memory_warning(batches[0], run.workers) if run.workers else None
        if warning:
            self.report({"event": "warning", "kind": "shared-memory", "message": warning})
        with self.stop.deferred():
            trained = train(
                self.model,
                optimizer,
                build_scheduler(optimizer, recipe.schedule, total),
                lambda first: steps(
                    batches, first, total, run.workers, parts=run.accumulate, pin=self.device.type == "cuda"
                ),
                self.step,
                LoopSettings(
                    total,
                    recipe.run,
                    recipe.optimizer.clip_norm,
                    recipe.schedule.batch_size // self.processes,
                    recipe.schedule.round_steps(total),
                    best="psnr_heldout",
                    faults=self.run.folder / "faults",
                    trackers=Trackers(self.run.folder, self.job.name, self.job.recipe.values),
                ),
                self.checkpoints,
                accelerator=self.accelerator,
                report=self.report,
                stop_requested=self.stop,
                evaluate=self.evaluate,
            )
        main = self.accelerator.is_main_process
        self.accelerator.end_training()
        if not main:
            return None
        assert isinstance(trained, Pretrainer) and isinstance(trained.encoder, SparseUNet)
        path = export_encoder(trained.encoder, recipe.encoder, self.run.folder / "encoder", self.origin(total))
        return self.result(total, short_sha256(path))

    def step(self, module: nn.Module, batch: PretrainBatch, shares: Shares) -> StepOutput:
        """Eq. 4-20 for one batch: means over views of equal size, so that all parts count the same."""
        predictions, loss = self.objective(module, *batch)
        with torch.no_grad():
            quality = torch.cat([psnr(p.rendered.colors, p.targets.colors) for p in predictions]).mean()
        values: dict[str, Any] = {"loss": loss.total.detach()}
        for name, term in (("image", loss.image), ("depth", loss.depth), ("semantic", loss.semantic)):
            if term is not None:
                values[name] = term.detach()
        values["psnr"] = quality
        for name in ("kept", "above", "born", "gone"):
            values[name] = sum(getattr(prediction.counts, name) for prediction in predictions) / len(predictions)
        warnings = [
            (kind, f"Scene '{scene}': {_WARNINGS.get(kind, kind)}.")
            for scene, prediction in zip(batch[0].names, predictions, strict=True)
            for kind in getattr(prediction, "warnings", ())
        ]
        return StepOutput(loss.total, values, warnings)

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Measure held-out views and draw some of them, and the curves so far, in the first process."""
        if not self.accelerator.is_main_process:
            return {}
        values = self.evaluation(self.model, self.accelerator.autocast(), panel_path(self.run, step))
        draw_pretraining(self.run)
        return values

    def origin(self, total: int) -> dict[str, Any]:
        """What the exported encoder says about itself."""
        recipe = self.job.recipe
        return {
            "recipe": recipe.name,
            "grid_size": self.recipe.data.grid_size,
            "recipe_hash": recipe.hash,
            "preset": recipe.preset,
            "gcbench": __version__,
            "data": self.dataset.fingerprint,
            "synthetic": self.dataset.synthetic,
            "seed": self.job.seed,
            "steps": total,
            "teacher": self.objective.describe_teacher(),
        }

    def result(self, total: int, weights: str) -> PretrainResult:
        """The result, from the run's log."""
        records = self.run.records()
        trained = [record for record in records if record["event"] == "step"]
        last = trained[-1]
        source = provenance(self.job.recipe, self.dataset, self.started, weights)
        seconds = float(np.median([record["seconds"] for record in trained]))
        return PretrainResult(
            name=self.job.name,
            seed=self.job.seed,
            steps=total,
            losses={key: last[key] for key in ("image", "depth", "semantic", "loss") if key in last},
            psnr=[
                CurvePoint(step=r["step"], psnr_train=r["psnr_train"], psnr_heldout=r["psnr_heldout"])
                for r in records
                if r["event"] == "evaluation"
            ],
            gaussians_kept=float(np.mean([record["kept"] for record in trained[-10:]])),
            seconds_per_step=seconds,
            seconds_per_scene=seconds * self.processes / self.recipe.schedule.batch_size,
            peak_memory_mb=max([source.peak_memory_mb, *(record["memory_mb"] for record in trained)]),
            warnings=last["warnings"],
            teacher=self.objective.describe_teacher(),
            processes=self.processes,
            provenance=source,
            notes=list(self.job.notes),
        )

    def _check(self) -> None:
        """Refuse data that cannot be trained on before anything else happens."""

        def tell(name: str, done: int, total: int) -> None:
            self.report({"event": "progress", "step": done, "total": total, "phase": f"checking {name}"})

        findings = check_data(self.recipe, self.dataset, tell)
        findings.raise_if_any()
        for message in findings.warnings:
            self.report({"event": "warning", "message": message})
