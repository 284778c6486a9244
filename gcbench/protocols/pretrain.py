"""GaussianCross pre-training: from scenes with posed frames to an exported encoder.

Shape legend: V views of a scene, H x W pixels, D teacher channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.samples import PretrainSample, PretrainSamples, load_views, split_frames
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import GeometricAugmentation
from gcbench.files import atomic_path
from gcbench.models.pretrainer import Pretrainer, ScenePrediction
from gcbench.models.sparse_unet import SparseUNet, batch_statistics
from gcbench.models.teachers import ClassicalTeacher, Teacher
from gcbench.objectives.pretraining import LossWeights, pretraining_loss, psnr
from gcbench.protocols.encoders import build_encoder, export_encoder
from gcbench.protocols.jobs import PretrainJob
from gcbench.protocols.loading import steps
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.results import now, provenance, short_sha256
from gcbench.recipe.schema import PretrainRecipe
from gcbench.runs.results import CurvePoint, PretrainResult
from gcbench.runs.store import Run
from gcbench.structures import PointBatch, PosedViews
from gcbench.training.checkpoint import Checkpoints
from gcbench.training.loop import LoopSettings, Report, StepOutput, Stop, build_accelerator, train
from gcbench.training.optim import build_optimizer, build_scheduler

PretrainBatch = tuple[PointBatch, list[PosedViews]]


class PretrainBatches:
    """``batches[b]``: the samples b * batch_size ... of a pre-training set, points collated, views per scene."""

    def __init__(self, samples: PretrainSamples, batch_size: int) -> None:
        self.samples = samples
        self.batch_size = batch_size

    def __getitem__(self, number: int) -> PretrainBatch:
        first = number * self.batch_size
        return join([self.samples[k] for k in range(first, first + self.batch_size)])


def join(samples: Sequence[PretrainSample]) -> PretrainBatch:
    """Samples of several scenes as one batch."""
    return collate([sample.points for sample in samples]), [sample.views for sample in samples]


def pretrain(job: PretrainJob, run: Run, report: Report, stop: Stop) -> PretrainResult:
    """Run a `PretrainJob`: train, measure held-out views, export the encoder to `RUN/encoder/`.

    Raises:
        DataError: the dataset has no such split, or scenes without frames.
        RunError: training diverged.
    """
    return _Pretraining(job, run, report, stop).run_to_end()


class _Pretraining:
    def __init__(self, job: PretrainJob, run: Run, report: Report, stop: Stop) -> None:
        self.job, self.run, self.report, self.stop = job, run, report, stop
        self.started = now()
        recipe = job.recipe.build()
        assert isinstance(recipe, PretrainRecipe)
        self.recipe = recipe
        self.dataset = PreparedDataset.open(job.data)
        self.samples = PretrainSamples(
            self.dataset,
            self.dataset.scene_names(recipe.data.splits),
            grid_size=recipe.data.grid_size,
            mask_ratio=recipe.data.mask_ratio,
            mask_block=recipe.data.mask_block,
            views=recipe.data.views,
            view_size=(recipe.data.view_width, recipe.data.view_height),
            holdout_every=recipe.data.holdout_every,
            augmentation=GeometricAugmentation(**recipe.augmentation.model_dump()),
            seed=job.seed,
        )
        self.accelerator = build_accelerator(recipe.run.precision)
        self.device = self.accelerator.device
        torch.manual_seed(job.seed)
        self.teacher: Teacher = ClassicalTeacher(recipe.teacher.rows)
        self.weights = LossWeights(recipe.losses.image, recipe.losses.depth, recipe.losses.semantic)
        self.model = build_pretrainer(recipe, build_encoder(recipe.encoder), self.teacher.dim)

    def run_to_end(self) -> PretrainResult:
        """Train, export, and put the result together from the log."""
        recipe = self.recipe
        total = recipe.schedule.total_steps(len(self.samples))
        optimizer = build_optimizer(self.model.parameters(), recipe.optimizer)
        batches = PretrainBatches(self.samples, recipe.schedule.batch_size)
        with self.stop.deferred():
            trained = train(
                self.model,
                optimizer,
                build_scheduler(optimizer, recipe.schedule, total),
                lambda first: steps(batches, first, total, recipe.run.workers),
                self.step,
                LoopSettings(total, recipe.run, recipe.optimizer.clip_norm),
                Checkpoints(
                    self.run.checkpoints, warn=lambda message: self.report({"event": "warning", "message": message})
                ),
                accelerator=self.accelerator,
                report=self.report,
                stop_requested=self.stop,
                evaluate=self.evaluate,
            )
        assert isinstance(trained, Pretrainer) and isinstance(trained.encoder, SparseUNet)
        path = export_encoder(trained.encoder, recipe.encoder, self.run.folder / "encoder")
        return self.result(total, short_sha256(path))

    def step(self, module: nn.Module, batch: PretrainBatch) -> StepOutput:
        """Eq. 4-20 for one batch."""
        points, views = batch[0].to(self.device), [item.to(self.device) for item in batch[1]]
        predictions, loss = self.losses(module, points, views)
        with torch.no_grad():
            quality = torch.cat([psnr(p.rendered.colors, p.targets.colors) for p in predictions]).mean()
        values = {
            "loss": loss.total,
            "image": loss.image,
            "depth": loss.depth,
            "semantic": loss.semantic,
            "psnr": quality,
        }
        numbers = {name: float(value.detach()) for name, value in values.items() if value is not None}
        counts = [prediction.counts for prediction in predictions]
        for name in ("kept", "above", "born", "gone"):
            numbers[name] = sum(getattr(count, name) for count in counts) / len(counts)
        return StepOutput(loss.total, numbers)

    def losses(
        self, module: nn.Module, points: PointBatch, views: list[PosedViews]
    ) -> tuple[Sequence[ScenePrediction], Any]:
        """Predictions of every scene, and the loss over all their views."""
        grid = self.teacher.grid(self.recipe.data.view_height, self.recipe.data.view_width)
        predictions = module(points, views, grid)
        targets = torch.cat([item.colors for item in views])
        maps = [p.feature_maps for p in predictions if p.feature_maps is not None]
        loss = pretraining_loss(
            torch.cat([p.rendered.colors for p in predictions]),
            torch.cat([p.rendered.depths for p in predictions]),
            targets,
            torch.cat([p.targets.depths for p in predictions]),
            self.weights,
            feature_maps=torch.cat(maps),
            teacher_maps=self.teacher(targets),
        )
        return predictions, loss

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Losses and PSNR on held-out views, PSNR on training views; the pictures of the first scene are kept."""
        model = self.accelerator.unwrap_model(self.model)
        model.eval()
        names = self.samples.names[: self.recipe.data.evaluation_scenes]
        heldout: dict[str, list[float]] = {
            "psnr_heldout": [],
            "image": [],
            "depth": [],
            "semantic": [],
            "psnr_train": [],
        }
        with torch.no_grad(), batch_statistics(model):
            for name in names:
                sample = self.samples.heldout_views(name)
                views = sample.views
                prediction, values = self._measure(model, sample)
                for key, value in values.items():
                    heldout[key].append(value)
                heldout["psnr_train"].append(
                    self._measure(model, self._training_views(name, sample))[1]["psnr_heldout"]
                )
                if name == names[0]:
                    save_panel(self.run.folder / "panels" / f"step-{step:09d}.npz", name, prediction, views)
        means = {key: float(np.mean(values)) for key, values in heldout.items()}
        return {"psnr_heldout": means.pop("psnr_heldout"), "psnr_train": means.pop("psnr_train")} | {
            f"{key}_heldout": value for key, value in means.items()
        }

    def _measure(self, model: nn.Module, sample: PretrainSample) -> tuple[ScenePrediction, dict[str, float]]:
        points, views = join([sample])
        predictions, loss = self.losses(model, points.to(self.device), [item.to(self.device) for item in views])
        quality = psnr(predictions[0].rendered.colors, predictions[0].targets.colors)
        values = {"psnr_heldout": quality.mean(), "image": loss.image, "depth": loss.depth, "semantic": loss.semantic}
        return predictions[0], {key: float(value) for key, value in values.items()}

    def _training_views(self, name: str, heldout: PretrainSample) -> PretrainSample:
        """As many views that are trained on, evenly spaced, with the same points."""
        frames = self.dataset.frames(name)
        positions = split_frames(len(frames), self.recipe.data.holdout_every)[0]
        count = min(len(heldout.views.colors), len(positions))
        chosen = [positions[i] for i in np.linspace(0, len(positions) - 1, count).round().astype(int)]
        return PretrainSample(heldout.points, load_views(frames, chosen, self.samples.view_size, np.eye(4)))

    def result(self, total: int, weights: str) -> PretrainResult:
        """The result, from the run's log."""
        records = self.run.records()
        trained = [record for record in records if record["event"] == "step"]
        last = trained[-1]
        source = provenance(self.job.recipe, self.dataset, self.started, weights)
        return PretrainResult(
            name=self.job.name,
            seed=self.job.seed,
            steps=total,
            losses={key: last[key] for key in ("image", "depth", "semantic", "loss")},
            psnr=[
                CurvePoint(step=r["step"], psnr_train=r["psnr_train"], psnr_heldout=r["psnr_heldout"])
                for r in records
                if r["event"] == "evaluation"
            ],
            gaussians_kept=float(np.mean([record["kept"] for record in trained[-10:]])),
            seconds_per_step=float(np.median([record["seconds"] for record in trained])),
            peak_memory_mb=source.peak_memory_mb,
            provenance=source,
        )


def save_panel(path: Path, scene: str, prediction: ScenePrediction, views: PosedViews) -> None:
    """Keep what a picture of held-out views needs: photo, rendered colour, depths [V, H, W] in metres, features."""
    cube_units_per_metre = prediction.targets.depths.sum().cpu() / views.depths.sum().clamp(min=1e-6)
    arrays: dict[str, Tensor] = {
        "photo": prediction.targets.colors,
        "rendered": prediction.rendered.colors,
        "true_depth": views.depths,
        "rendered_depth": prediction.rendered.depths.cpu() / cube_units_per_metre.clamp(min=1e-6),
        "features": prediction.rendered.features,
        "psnr": psnr(prediction.rendered.colors, prediction.targets.colors),
    }
    numbers: dict[str, Any] = {key: value.detach().cpu().numpy() for key, value in arrays.items()}
    frames = np.array(prediction.targets.frame_ids)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, scene=np.array(scene), frames=frames, **numbers)
