"""Figures of scenes: scans, rendered views and similarities, as PNG and SVG. Pictures of pixels stay pixels in the SVG.

Shape legend: H x W pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gcbench.errors import InputError
from gcbench.reporting.drawing import DrawnFigure, canvas_of, finish, styled
from gcbench.reporting.figures import missing_depth_colormap
from gcbench.structures import Float32Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

PANEL_TITLES = {
    "points": "Scan",
    "point-features": "Point features",
    "photo": "Photo",
    "color": "Rendered colour",
    "measured-depth": "Depth camera",
    "depth": "Rendered depth",
    "features": "Rendered features",
}
SIMILARITY_COLORMAP = "viridis"  # brighter is more similar; readable without colour vision
_DEPTHS = ("measured-depth", "depth")
_WIDTH = 9.6  # inches: a font of 11 points is 11 pixels high where the figure is 700 pixels wide
_EDGE, _GAP, _LINE = 0.05, 0.09, 0.22  # inches
_DPI = 150
_SMALL = 10


@dataclass(frozen=True)
class ViewRow:
    """One rendered view.

    Attributes:
        title: what it is, such as the scene and the frame.
        panels: name -> picture [H, W, 3] in [0, 1], or depth [H, W] in metres, 0 where there is none.
        notes: name -> a few words below the picture, such as its PSNR.
    """

    title: str
    panels: Mapping[str, Float32Array]
    notes: Mapping[str, str]


@dataclass(frozen=True)
class SimilarityColumn:
    """One scene.

    Attributes:
        title, query: the scene's name, and where the query point lies, in words.
        scan, similarity: [H, W, 3] in [0, 1], the points in their colours and by similarity.
        mark: (x, y) of the query point, pixels.
        low: the similarity that the colour map's dark end stands for; its bright end is 1.
        note: below the pictures.
    """

    title: str
    query: str
    scan: Float32Array
    similarity: Float32Array
    mark: tuple[float, float]
    low: float
    note: str


@styled
def draw_views(rows: Sequence[ViewRow], panels: Sequence[str], *, title: str, caption: str) -> DrawnFigure:
    """Views below each other, `panels` side by side. Depths of a row share one scale.

    Raises:
        InputError: there is no view.
    """
    if not rows:
        raise InputError("There is no view to draw.")
    across = len(panels)
    cell = (_WIDTH - 2 * _EDGE - (across - 1) * _GAP) / across
    heights = [cell * max(row.panels[name].shape[0] / row.panels[name].shape[1] for name in panels) for row in rows]
    canvas = _blank(sum(heights) + (2.1 * len(rows) + 1.2) * _LINE)
    top = 1.2 * _LINE
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        top += _LINE
        axes = [_place(canvas, _EDGE + place * (cell + _GAP), top, cell, height) for place in range(across)]
        axes[0].annotate(
            row.title, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=_SMALL
        )
        _draw_row(row, panels, axes)
        if number == 0:
            for axis, name in zip(axes, panels, strict=True):
                axis.set_title(PANEL_TITLES[name], fontweight="bold", fontsize=11, loc="left", pad=4 + 72 * _LINE)
        top += height + 1.1 * _LINE
    return finish(canvas, title, caption, _DPI)


@styled
def draw_similarity(columns: Sequence[SimilarityColumn], *, title: str, caption: str) -> DrawnFigure:
    """Scenes beside each other: the scan above, below it the similarity to the point under the cross.

    Raises:
        InputError: there is no scene.
    """
    if not columns:
        raise InputError("There is no scene to draw.")
    across = min(len(columns), 4)
    cell = (_WIDTH - 2 * _EDGE - (max(across, 3) - 1) * 2 * _GAP) / max(across, 3)
    height = cell * columns[0].scan.shape[0] / columns[0].scan.shape[1]
    block = 2 * height + 5.2 * _LINE
    canvas = _blank(block * -(-len(columns) // across))
    for number, column in enumerate(columns):
        left, top = _EDGE + number % across * (cell + 2 * _GAP), number // across * block + 2 * _LINE
        above = _place(canvas, left, top, cell, height)
        below = _place(canvas, left, top + height + 0.2 * _LINE, cell, height)
        scale = canvas.add_axes(
            _box(canvas, left + 0.1 * cell, top + 2 * height + 1.4 * _LINE, 0.8 * cell, 0.4 * _LINE)
        )
        _draw_column(canvas, column, above, below, scale)
    return finish(canvas, title, caption, _DPI)


def similarity_colors(similarity: Float32Array, low: float) -> Float32Array:
    """Colours [N, 3] in [0, 1] of similarities [N]; `low` and less is the colour map's dark end, 1 its bright end."""
    import matplotlib as mpl

    colors: Float32Array = mpl.colormaps[SIMILARITY_COLORMAP]((similarity - low) / max(1.0 - low, 1e-6))[:, :3]
    return colors.astype(np.float32)


def _draw_row(row: ViewRow, panels: Sequence[str], axes: Sequence[Axes]) -> None:
    known = [row.panels[name] for name in _DEPTHS if name in panels]
    values = np.concatenate([depth[depth > 0] for depth in known]) if known else np.zeros(0)
    low, high = np.percentile(values, [1, 99]) if values.size else (0.0, 1.0)
    notes = {next((name for name in panels if name in _DEPTHS), ""): f"{low:.1f} to {high:.1f} m"}
    for name, note in row.notes.items():
        notes[name] = f"{notes[name]}, {note}" if name in notes else note
    for axis, name in zip(axes, panels, strict=True):
        if name in _DEPTHS:
            depth = np.ma.masked_less_equal(row.panels[name], 0)
            axis.imshow(depth, cmap=missing_depth_colormap(), vmin=low, vmax=high)
        else:
            axis.imshow(np.clip(row.panels[name], 0, 1))
        axis.set_xlabel(notes.get(name, ""), fontsize=_SMALL, loc="left", labelpad=3)


def _draw_column(canvas: Canvas, column: SimilarityColumn, above: Axes, below: Axes, bar: Axes) -> None:
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    for axis, picture in ((above, column.scan), (below, column.similarity)):
        axis.imshow(picture)
        for color, width in (("white", 3.6), ("#E00000", 1.6)):  # a red cross, as in the paper, with a white rim
            axis.plot(*column.mark, marker="x", markersize=9, markeredgewidth=width, color=color, clip_on=False)
    above.set_title(f"{column.title}\nquery: {column.query}", fontsize=11, loc="left", pad=2)
    below.set_xlabel(column.note, fontsize=_SMALL, labelpad=2)
    colors = ScalarMappable(Normalize(column.low, 1.0), mpl.colormaps[SIMILARITY_COLORMAP])
    ticks = [column.low, (1 + column.low) / 2, 1.0]
    scale = canvas.colorbar(colors, cax=bar, orientation="horizontal")
    scale.set_ticks(ticks, labels=[f"{tick:.2f}" for tick in ticks])
    bar.tick_params(labelsize=_SMALL, pad=1)


def _blank(height: float) -> Canvas:
    """A canvas whose parts are placed by hand, `height` in inches."""
    canvas = canvas_of(_WIDTH, height)
    canvas.set_layout_engine("none")
    return canvas


def _box(canvas: Canvas, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
    """A box given in inches from the top left corner, as Matplotlib wants it."""
    across, down = canvas.get_size_inches()
    return left / across, 1 - (top + height) / down, width / across, height / down


def _place(canvas: Canvas, left: float, top: float, width: float, height: float) -> Axes:
    """A picture's place, without anything around it; inches."""
    axis = canvas.add_axes(_box(canvas, left, top, width, height))
    axis.set(xticks=[], yticks=[], anchor="NW")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return axis
