"""Rendering quality while pre-training: losses and PSNR on views never trained on, and pictures of some of them.

Shape legend: V views of a scene, H x W pixels, F channels of a rendered feature. Depths are metres in pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcbench.data.batching import collate
from gcbench.data.samples import PretrainSample, PretrainSamples, load_views, split_frames
from gcbench.files import write_atomic
from gcbench.models.pretrainer import ScenePrediction
from gcbench.models.sparse_unet import batch_statistics
from gcbench.objectives.pretraining import psnr
from gcbench.protocols.pretrain_objective import PretrainingObjective
from gcbench.recipe.schema import PretrainRecipe
from gcbench.reporting.figures import PanelRow, render_panel
from gcbench.structures import PosedViews

_PICTURED = 3  # views in a picture


class HeldOutEvaluation:
    """Measures a model on the first `evaluation_scenes` scenes, with all their points.

    Batch norm takes the statistics of the batch, as in training, so as many scenes pass at once as there. Of each scene
    twice as many views as in a training step are rendered at a time: without gradients that fits.

    Args:
        samples: the scenes.
        recipe: sizes.
        objective: losses and teacher.
        batch_size: scenes of a training step in one process.
    """

    def __init__(
        self, samples: PretrainSamples, recipe: PretrainRecipe, objective: PretrainingObjective, batch_size: int
    ) -> None:
        self.samples, self.objective, self.batch_size = samples, objective, batch_size
        self.names = samples.names[: recipe.data.evaluation_scenes]
        self.at_once = 2 * recipe.data.views

    def __call__(
        self, model: nn.Module, precision: AbstractContextManager[Any], picture: Path | None = None
    ) -> dict[str, float]:
        """Means over the scenes: `psnr_heldout`, `psnr_train` (views trained on) and the losses of held-out views.

        Args:
            model: the pre-trainer; it is left in evaluation mode.
            precision: the context it computes in.
            picture: where to draw held-out views of the first scenes, as PNG.
        """
        model.eval()
        measured: dict[str, list[float]] = {}
        rows: list[PanelRow] = []
        groups = np.array_split(np.array(self.names, object), math.ceil(len(self.names) / self.batch_size))
        with torch.no_grad(), precision, batch_statistics(model):
            for names in groups:
                heldout = [self.samples.heldout_views(name) for name in names]
                trained = [self._training_views(sample) for sample in heldout]
                for values, others in zip(
                    self._measure(model, heldout, rows if picture else None),
                    self._measure(model, trained, None),
                    strict=True,
                ):
                    values = {f"{key}_heldout": value for key, value in values.items()}
                    for key, value in {**values, "psnr_train": others["psnr"]}.items():
                        measured.setdefault(key, []).append(value)
        if picture:
            write_atomic(picture, render_panel(rows))
        return {key: float(np.mean(values)) for key, values in measured.items()}

    def _measure(
        self, model: nn.Module, samples: Sequence[PretrainSample], rows: list[PanelRow] | None
    ) -> list[dict[str, float]]:
        """Means over the views of each scene; pictures of some views are added to `rows`."""
        sums: list[dict[str, float]] = [{} for _ in samples]
        points = collate([sample.points for sample in samples])
        most = max(len(sample.views.colors) for sample in samples)
        for first in range(0, most, self.at_once):
            views = [_part(sample.views, first, self.at_once) for sample in samples]
            predictions = self.objective.predict(model, points, views)
            for name, prediction, part, sample, total in zip(
                points.names, predictions, views, samples, sums, strict=True
            ):
                count = len(sample.views.colors)
                if first >= count:  # measured already; the scene only keeps its batch whole
                    continue
                loss = self.objective.loss([prediction], [name], [part])
                quality = psnr(prediction.rendered.colors, prediction.targets.colors)
                values = {"psnr": quality.mean(), "image": loss.image, "depth": loss.depth, "semantic": loss.semantic}
                for key, value in values.items():
                    if value is not None:
                        total[key] = total.get(key, 0.0) + float(value) * len(part.colors) / count
                if rows is not None:
                    chosen = [view - first for view in self._pictured(name, count)]
                    chosen = [view for view in chosen if 0 <= view < len(part.colors)]
                    rows.extend(panel_rows(name, prediction, part, chosen))
        return sums

    def _training_views(self, heldout: PretrainSample) -> PretrainSample:
        """As many views that are trained on, evenly spaced, with the same points."""
        frames = self.samples.dataset.frames(heldout.points.name)
        positions = split_frames(len(frames), self.samples.holdout_every)[0]
        count = min(len(heldout.views.colors), len(positions))
        chosen = [positions[i] for i in np.linspace(0, len(positions) - 1, count).round().astype(int)]
        return PretrainSample(heldout.points, load_views(frames, chosen, self.samples.view_size, np.eye(4)))

    def _pictured(self, name: str, views: int) -> tuple[int, ...]:
        """Which held-out views of a scene are drawn: three in all, spread over the first scenes and over each one."""
        number = self.names.index(name)
        shares = np.diff(np.linspace(0, _PICTURED, min(len(self.names), _PICTURED) + 1).round().astype(int))
        if number >= len(shares):
            return ()
        places = (np.arange(shares[number]) + 0.5) / shares[number] * views
        return tuple(dict.fromkeys(places.astype(int).tolist()))


def panel_rows(
    scene: str, prediction: ScenePrediction, views: PosedViews, chosen: list[int] | None = None
) -> list[PanelRow]:
    """Pictures of rendered views: photo, colour, depths in metres, features.

    Args:
        scene: its name.
        prediction: V rendered views.
        views: the same views, in metres.
        chosen: which of the V; None takes all.
    """
    quality = psnr(prediction.rendered.colors, prediction.targets.colors)
    metres = float(views.depths.sum()) / float(prediction.targets.depths.sum()) if bool(views.depths.any()) else 1.0
    features = prediction.rendered.features if prediction.feature_maps is not None else None
    return [
        PanelRow(
            title=f"{scene}, frame {views.frame_ids[view]}",
            photo=_array(prediction.targets.colors[view]),
            rendered=_array(prediction.rendered.colors[view]).clip(0, 1),
            depth=_array(views.depths[view]),
            rendered_depth=_array(prediction.rendered.depths[view]) * metres,
            psnr=float(quality[view]),
            features=None if features is None else _array(features[view]),
        )
        for view in (range(len(views.colors)) if chosen is None else chosen)
    ]


def _part(views: PosedViews, first: int, size: int) -> PosedViews:
    """`size` views from `first` on, or the last ones of a scene that has fewer."""
    part = slice(first if first < len(views.colors) else -size, first + size)
    return PosedViews(
        views.colors[part], views.depths[part], views.viewmats[part], views.Ks[part], views.frame_ids[part]
    )


def _array(values: Tensor) -> Any:
    return values.detach().float().cpu().numpy()
