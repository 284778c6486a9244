"""Figures of scenes with a pre-trained model (Figures S.1 to S.5): the arrays, the pictures and the numbers in them.

    <run>/figures/<figure>.png, .svg, .json        <run>/arrays.safetensors, named <scene>/<what>

Shape legend: N points of a scene, H x W pixels of a view, F channels of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.protocols.encode import LoadedEncoder, encode_scene, load_any_encoder
from gcbench.protocols.jobs import SceneFigureJob
from gcbench.protocols.query_points import choose_query, class_means, cosine_similarity
from gcbench.protocols.render import Pretrained, SceneRenderer, SceneView, load_pretrained
from gcbench.protocols.results import provenance
from gcbench.recipe.figures import SimilarityFigure, ViewsFigure, definition_hash
from gcbench.reporting.drawing import DrawnFigure
from gcbench.reporting.feature_colors import FeatureColors, umap_colors
from gcbench.reporting.scan_image import ScanImage, project_scan
from gcbench.reporting.scene_figures import (
    SimilarityColumn,
    ViewRow,
    draw_similarity,
    draw_views,
    similarity_colors,
)
from gcbench.runs.results import FigureResult, FigureScene
from gcbench.runs.store import Run
from gcbench.structures import Float32Array, Scene

Report = Callable[[dict[str, Any]], None]
Arrays = dict[str, NDArray[Any]]
_DARK = 2  # percentile of the similarities that the colour map begins at


@dataclass(frozen=True)
class _Shown:
    """A figure with what stands in it, scene by scene, and its arrays."""

    figure: DrawnFigure
    scenes: list[FigureScene]
    arrays: Arrays


def draw_figure(job: SceneFigureJob, run: Run, report: Report) -> FigureResult:
    """Draw the figure into the run folder. The same job gives the same arrays and pictures.

    Raises:
        InputError: the pre-training is none, or a class has no such name.
        DataError: the dataset lacks the split, or has no scene with frames where views are to be rendered.
        RunError: the pre-training has no checkpoint that can be read.
        MissingExtraError: colours by UMAP without umap-learn.
    """
    started = datetime.now(timezone.utc)
    pretrained = load_pretrained(job.pretraining, lambda message: report({"event": "warning", "message": message}))
    dataset = PreparedDataset.open(job.data)
    painter = _Painter(job, pretrained, dataset, report)
    shown = (
        painter.views(job.definition) if isinstance(job.definition, ViewsFigure) else painter.similarity(job.definition)
    )
    write_atomic(run.folder / "arrays.safetensors", save(shown.arrays))
    drawn = shown.figure
    run.save_figure(job.definition.id, drawn.png, title=drawn.title, caption=drawn.caption, svg=drawn.svg)
    return FigureResult(
        figure=job.definition.id,
        figure_hash=definition_hash(job.definition),
        title=drawn.title,
        caption=drawn.caption,
        seed=job.seed,
        pretraining=pretrained.job.name,
        step=pretrained.step,
        scenes=shown.scenes,
        provenance=provenance(pretrained.job.recipe, dataset, started, pretrained.weights_hash),
    )


def chosen_scenes(dataset: PreparedDataset, splits: Sequence[str], count: int, *, with_frames: bool) -> list[str]:
    """So many scenes, evenly spaced over the splits' list, or all of them where there are fewer.

    Raises:
        DataError: the dataset has no such split, or no scene to show in them.
    """
    names = [name for name in dataset.scene_names(splits) if not with_frames or dataset.frame_count(name) > 1]
    if not names:
        frames = " with frames" if with_frames else ""
        raise DataError(f"{dataset.root} has no scene{frames} in {', '.join(splits)}.", "Prepare it with its frames.")
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in places]


class _Painter:
    """Computes what a figure shows."""

    def __init__(self, job: SceneFigureJob, pretrained: Pretrained, dataset: PreparedDataset, report: Report) -> None:
        self.job, self.pretrained, self.dataset, self.report = job, pretrained, dataset, report
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def views(self, figure: ViewsFigure) -> _Shown:
        """Rendered views, and scans where the figure has them."""
        rendered: list[tuple[str, SceneView]] = []
        scans: dict[str, dict[str, Float32Array]] = {}
        arrays: Arrays = {}
        names = chosen_scenes(self.dataset, figure.splits, figure.scenes, with_frames=True)
        encoder = self._encoder() if "point-features" in figure.panels else None
        for number, name in enumerate(names):
            self._tell(name, number, len(names))
            renderer = SceneRenderer(self.pretrained, self.dataset, name)
            chosen = _middle(renderer.select(figure.frames), figure.views)
            rendered += [(name, view) for view in renderer.views(chosen, renderer.background(chosen))]
            scans[name] = self._scan(figure, self.dataset.scene(name), encoder, arrays)
        self._tell("drawing", len(names), len(names))
        features = [view.features for _, view in rendered if view.features is not None]
        colors = FeatureColors.of(features) if features else None
        panels = [name for name in figure.panels if colors is not None or name != "features"]
        rows = []
        for name, view in rendered:
            row = _view_row(name, view, colors, scans[name])
            arrays |= {
                f"{name}/frame-{view.frame:06d}/{key}": row.panels[key] for key in row.panels if key not in scans[name]
            }
            rows.append(row)
        caption = self._caption(_views_caption(figure, [view for _, view in rendered], colors is not None))
        scenes = [_view_numbers(name, view) for name, view in rendered]
        return _Shown(draw_views(rows, panels, title=figure.title, caption=caption), scenes, arrays)

    def similarity(self, figure: SimilarityFigure) -> _Shown:
        """Similarities to a query point."""
        encoder = self._encoder()
        columns: list[SimilarityColumn] = []
        scenes: list[FigureScene] = []
        arrays: Arrays = {}
        names = chosen_scenes(self.dataset, figure.splits, figure.scenes, with_frames=False)
        for number, name in enumerate(names):
            self._tell(name, number, len(names))
            scene = self.dataset.scene(name)
            scan = _project(figure, scene)
            unseen_first = sorted(figure.classes, key=lambda name: any(name == scene.query_class for scene in scenes))
            query = choose_query(scene, scan.shown, figure.label_set, unseen_first)
            similarity = cosine_similarity(encode_scene(scene, encoder, self.device)[0], query.point)
            same, other = class_means(similarity, query)
            low = float(np.percentile(similarity[scan.shown], _DARK))
            arrays[f"{name}/similarity"] = similarity
            columns.append(
                SimilarityColumn(
                    title=name,
                    query=query.name or "the scene's median",
                    scan=scan.paint(scene.color),
                    similarity=scan.paint(similarity_colors(similarity, low)),
                    mark=(float(scan.pixel[query.point, 0]), float(scan.pixel[query.point, 1])),
                    low=low,
                    note="" if query.name is None else f"{query.name} {same:.2f}, others {other:.2f}",
                )
            )
            scenes.append(
                FigureScene(
                    scene=name,
                    query=query.point,
                    query_class=query.name,
                    same_class=None if query.name is None else same,
                    other_classes=None if query.name is None else other,
                )
            )
        self._tell("drawing", len(names), len(names))
        caption = self._caption(_similarity_caption(figure))
        return _Shown(draw_similarity(columns, title=figure.title, caption=caption), scenes, arrays)

    def _scan(
        self, figure: ViewsFigure, scene: Scene, encoder: LoadedEncoder | None, arrays: Arrays
    ) -> dict[str, Float32Array]:
        """Pictures of the scan, by panel."""
        if not {"points", "point-features"} & set(figure.panels):
            return {}
        scan = _project(figure, scene)
        pictures = {"points": scan.paint(scene.color)}
        if encoder is not None:
            features = encode_scene(scene, encoder, self.device)[0]
            if figure.colors == "umap":
                colors = umap_colors(
                    features, points=figure.umap_points, neighbors=figure.umap_neighbors, seed=self.job.seed
                )
            else:
                colors = FeatureColors.of([features[None]])(features[None])[0]  # as a view of one line
            arrays[f"{scene.name}/point-features"] = np.rint(colors * 255).astype(np.uint8)
            pictures["point-features"] = scan.paint(colors)
        return pictures

    def _encoder(self) -> LoadedEncoder:
        return load_any_encoder(self.job.pretraining / "encoder")

    def _caption(self, words: Sequence[str]) -> str:
        """What is shown, then of which data and which run."""
        recipe, shown = self.pretrained.job.recipe, self.job.definition
        preset = f", preset {recipe.preset}" if recipe.preset else ""
        origin = (
            f"Data: {'synthetic rooms, ' if self.dataset.synthetic else ''}{self.dataset.root.name},"
            f" {', '.join(shown.splits)}."
            f" Run: {self.pretrained.job.name}, {recipe.name}{preset}, {self.pretrained.step:,} steps."
        )
        return " ".join(filter(None, [*words, shown.note, origin]))

    def _tell(self, phase: str, done: int, total: int) -> None:
        self.report({"event": "progress", "step": done, "total": total, "phase": phase})


def _middle(frames: Sequence[int], count: int) -> list[int]:
    """So many of the frames, each from the middle of an equal share of them."""
    count = min(count, len(frames))
    return [frames[(2 * number + 1) * len(frames) // (2 * count)] for number in range(count)]


def _project(figure: ViewsFigure | SimilarityFigure, scene: Scene) -> ScanImage:
    return project_scan(
        scene.coord,
        scene.normal,
        elevation=figure.elevation,
        azimuth=figure.azimuth,
        cut_height=figure.cut_height,
    )


def _view_row(name: str, view: SceneView, colors: FeatureColors | None, scan: Mapping[str, Float32Array]) -> ViewRow:
    panels = {
        **scan,
        "photo": view.photo,
        "color": view.color,
        "measured-depth": view.depth,
        "depth": view.rendered_depth,
    }
    if view.features is not None and colors is not None:
        panels["features"] = colors(view.features).astype(np.float32)
    notes = {"color": f"PSNR {view.psnr:.2f} dB"}
    if view.depth_error is not None:
        notes["depth"] = f"error {view.depth_error:.2f} m"
    return ViewRow(f"{name}, frame {view.frame} ({view.role})", panels, notes)


def _view_numbers(name: str, view: SceneView) -> FigureScene:
    return FigureScene(scene=name, frame=view.frame, role=view.role, psnr=view.psnr, depth_error=view.depth_error)


def _views_caption(figure: ViewsFigure, views: Sequence[SceneView], features: bool) -> list[str]:
    words = []
    if "points" in figure.panels:
        words.append(_scan_words(figure))
    if "point-features" in figure.panels:
        how = "UMAP in three dimensions" if figure.colors == "umap" else "three principal components"
        words.append(f"Point features: {how} as red, green and blue, of each scene by itself.")
    if "features" in figure.panels and features:
        words.append("Rendered features: three principal components, shared by all views.")
    if {"measured-depth", "depth"} & set(figure.panels):
        words.append("Depth: dark is near, bright is far, grey is no depth.")
    mean = np.mean([view.psnr for view in views])
    roles = sorted({view.role for view in views})
    words.append(f"PSNR {mean:.2f} dB, mean of {len(views)} views ({', '.join(roles)}).")
    return words


def _similarity_caption(figure: SimilarityFigure) -> list[str]:
    words = [
        "Cosine similarity of every point's encoder feature to that of the point under the red cross; brighter is more"
        " similar, on a scale of each scene's own."
    ]
    if figure.label_set is not None and figure.classes:
        words += [
            "The cross is at the visible point nearest to the centroid of the largest object of the named class, or to"
            " the scene's median where it has no such class; labels serve for nothing else.",
            "The two numbers are mean similarities of the points of that class and of all others.",
        ]
    else:
        words.append("The cross is at the visible point nearest to the scene's median.")
    return [*words, _scan_words(figure)]


def _scan_words(figure: ViewsFigure | SimilarityFigure) -> str:
    return f"Scans: points that face away or lie more than {figure.cut_height:g} m above the floor are not drawn."
