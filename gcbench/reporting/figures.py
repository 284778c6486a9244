"""Pictures of a report: views, curves and bars. Matplotlib and NumPy come with the call; no display is needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcbench.errors import InputError
from gcbench.reporting.comparison import Cell, Comparison
from gcbench.reporting.drawing import (
    COLORS,
    DASHES,
    HATCHES,
    PAPER_GREY,
    DrawnFigure,
    canvas_of,
    finish,
    png_of,
    styled,
)
from gcbench.reporting.verdicts import metric_unit
from gcbench.reporting.wording import number as number_text
from gcbench.reporting.wording import titled

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

    from gcbench.reporting.feature_colors import FeatureColors

    FloatImage = NDArray[np.floating[Any]]
    Image = NDArray[np.uint8] | FloatImage

PAPER_LABEL = "paper"


@dataclass(frozen=True)
class PanelRow:
    """One view: what the camera saw and what the Gaussians show.

    Attributes:
        title: stands at the left, e.g. ``"scene0011_00, frame 120 (held out)"``.
        photo: [H, W, 3], uint8, or float in [0, 1].
        rendered: [H, W, 3], as `photo`.
        depth: [H, W], 0 is no measurement.
        rendered_depth: [H, W], in the unit of `depth`.
        psnr: of `rendered` against `photo`, dB; None leaves it out.
        features: [H, W, F] rendered features, drawn as their three principal components; None leaves them out.
    """

    title: str
    photo: Image
    rendered: Image
    depth: FloatImage
    rendered_depth: FloatImage
    psnr: float | None = None
    features: FloatImage | None = None


@styled
def render_panel(rows: Sequence[PanelRow], *, depth_unit: str = "m", feature_title: str = "Features (PCA)") -> bytes:
    """Photo, rendered colour, true depth, rendered depth and features side by side, one view per row (Fig. S.5).

    True and rendered depth of a row share one scale; what the camera did not measure is grey. All rows share one PCA.

    Raises:
        InputError: no row, or images of one row that differ in size.
    """
    if not rows:
        raise InputError("There is no view to draw.")
    from gcbench.reporting.feature_colors import FeatureColors

    for row in rows:
        _same_size(row)
    known = [row.features for row in rows if row.features is not None]
    colors = FeatureColors.of(known) if known else None
    titles = ["Photo", "Rendered colour", "Depth camera", "Rendered depth", *([feature_title] if colors else [])]
    height, width = rows[0].depth.shape
    canvas = canvas_of(2.75 * len(titles) + 0.6, (2.75 * height / width + 0.32) * len(rows) + 0.4)
    axes = canvas.subplots(len(rows), len(titles), squeeze=False)
    for number, (row, line) in enumerate(zip(rows, axes, strict=True)):
        _draw_panel_row(canvas, row, list(line), colors, depth_unit)
        if number == 0:
            for axis, title in zip(line, titles, strict=True):
                axis.set_title(title, fontweight="bold", fontsize=12)
    return png_of(canvas)


@styled
def loss_curves(
    records: Iterable[Mapping[str, Any]],
    *,
    losses: Mapping[str, str],
    psnr: Mapping[str, str],
    title: str,
    caption: str,
) -> DrawnFigure:
    """Losses (log scale) and PSNR over the steps of a pre-training run.

    Args:
        records: lines of a run's log; those without a `step` are left out, of a repeated step the last one counts.
        losses: label -> key in the records, e.g. ``{"colour": "loss_color"}``.
        psnr: label -> key, e.g. ``{"training views": "psnr_train", "held-out views": "psnr_heldout"}``, dB.

    Raises:
        InputError: no record has any of the keys.
    """
    kept = list(records)
    left = {label: series_of(kept, key) for label, key in losses.items()}
    right = {label: series_of(kept, key) for label, key in psnr.items()}
    if not any(left.values()) and not any(right.values()):
        raise InputError(
            "The log has no losses to draw.", f"Looked for: {', '.join([*losses.values(), *psnr.values()])}."
        )
    canvas = canvas_of(9.6, 3.8)
    loss_axis, psnr_axis = canvas.subplots(1, 2)
    _draw_lines(loss_axis, left)
    loss_axis.set(xlabel="step", ylabel="loss (unweighted)", title="Losses")
    if any(value > 0 for points in left.values() for value in points.values()):
        loss_axis.set_yscale("log")
    _draw_lines(psnr_axis, right)
    psnr_axis.set(xlabel="step", ylabel="PSNR (dB)", title="Rendering quality")
    return finish(canvas, title, caption)


@styled
def run_curves(runs: Mapping[str, Iterable[Mapping[str, Any]]], *, values: Mapping[str, str]) -> bytes:
    """The same values of several runs over their steps, one panel per value, one line per run.

    Args:
        runs: label -> lines of the run's log.
        values: title of a panel -> key in the log; those that no run has are left out.

    Raises:
        InputError: no run has any of the keys.
    """
    kept = {label: list(records) for label, records in runs.items()}
    panels = {title: {label: series_of(kept[label], key) for label in kept} for title, key in values.items()}
    panels = {title: series for title, series in panels.items() if any(series.values())}
    if not panels:
        raise InputError("The logs have nothing to draw.", f"Looked for: {', '.join(values.values())}.")
    canvas = canvas_of(max(5.5 * len(panels), 6.0), 4.2)
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, series) in zip(axes, panels.items(), strict=True):
        _draw_lines(axis, series)
        axis.set(xlabel="step", title=title)
    return png_of(canvas)


@styled
def bar_table(comparison: Comparison, metric: str) -> bytes:
    """Bars of one metric: a group per column, a bar per row (those that were run), whiskers for the spread over seeds.

    The paper's numbers are drawn as lines across the bars, but only for entries that may be compared with it. Of a
    cell with several entries the first one is drawn, and the title says so.

    Raises:
        InputError: the table has no such metric, or nothing was run.
    """
    table = comparison.table
    if metric not in table.all_metrics:
        raise InputError(f"The table has no metric '{metric}'.", f"Known: {', '.join(table.all_metrics)}.")
    having = [number for number, column in enumerate(table.columns) if metric in table.metrics_of(column)]
    rows = [cells for cells in comparison.cells if any(cells[number].entries for number in having)]
    used = [number for number in having if any(cells[number].entries for cells in rows)]
    if not rows:
        raise InputError("Nothing of this table was run yet.", "Run some of its cells first.")
    canvas = canvas_of(max(6.5, 1.6 + 0.8 * len(rows) * len(used)), 4.4)
    axis = canvas.subplots()
    step = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [group + (number - (len(rows) - 1) / 2) * step for group in range(len(used))]
        _draw_bars(axis, [row[column] for column in used], metric, places, step, number)
    several = any(len(cell.entries) > 1 for row in rows for cell in row)
    axis.set_title(metric + (" (first protocol of each cell)" if several else ""))
    axis.set_xticks(range(len(used)), [comparison.table.columns[number].title for number in used])
    axis.set_xlim(-0.5, len(used) - 0.5)
    axis.set_ylim(0, max(1.15 * axis.get_ylim()[1], 1.0))
    axis.set_ylabel(titled(metric) if titled(metric) != metric else f"{metric} (%)")
    axis.grid(axis="x", visible=False)
    canvas.legend(loc="outside lower center", ncols=2)
    return png_of(canvas)


def _draw_bars(axis: Axes, cells: Sequence[Cell], metric: str, places: list[float], step: float, number: int) -> None:
    values = [cell.entries[0].metrics[metric] if cell.entries else None for cell in cells]
    means = [math.nan if value is None else value.mean for value in values]
    spreads = [math.nan if value is None or value.spread is None else value.spread for value in values]
    color, hatch = COLORS[number % len(COLORS)], HATCHES[number % len(HATCHES)]
    axis.bar(places, means, width=0.92 * step, label=cells[0].row.title, color=color, hatch=hatch, edgecolor="white")
    axis.errorbar(places, means, yerr=spreads, fmt="none", ecolor="#222222", capsize=3, linewidth=1.2)
    for place, mean, spread, cell in zip(places, means, spreads, cells, strict=True):
        if math.isnan(mean):
            continue
        top = mean + (0 if math.isnan(spread) else spread)
        if _may_show_paper(cell, metric):
            paper = cell.paper[metric].value
            known = axis.get_legend_handles_labels()[1]
            label = "_nolegend_" if PAPER_LABEL in known else PAPER_LABEL
            axis.hlines(
                paper, place - step / 2, place + step / 2, color=PAPER_GREY, linewidth=2, label=label, gid=PAPER_LABEL
            )
            top = max(top, paper)
        axis.annotate(
            number_text(mean, metric_unit(metric)),
            (place, top),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9.5,
        )


def _may_show_paper(cell: Cell, metric: str) -> bool:
    return bool(cell.entries) and cell.entries[0].metrics[metric].difference is not None


def missing_depth_colormap() -> Colormap:
    """Colours of depth; what was not measured or rendered (masked) is grey."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"].with_extremes(bad="#BBBBBB")


def _draw_panel_row(
    canvas: Canvas, row: PanelRow, axes: list[Axes], colors: FeatureColors | None, depth_unit: str
) -> None:
    import numpy as np

    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    axes[0].imshow(row.photo)
    axes[0].set_xlabel(row.title, fontsize=10, loc="left")
    axes[1].imshow(row.rendered if row.rendered.dtype == np.uint8 else np.clip(row.rendered, 0.0, 1.0))
    if row.psnr is not None:
        axes[1].set_xlabel(f"PSNR {row.psnr:.2f} dB", fontsize=10, loc="left")
    measured = row.depth[row.depth > 0]
    low, high = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 1.0)
    colormap = missing_depth_colormap()
    for axis, depth in ((axes[2], row.depth), (axes[3], row.rendered_depth)):
        drawn = axis.imshow(np.ma.masked_where(depth <= 0, depth), cmap=colormap, vmin=low, vmax=high)
    if measured.size:
        error = np.abs(row.rendered_depth - row.depth)[row.depth > 0].mean()
        axes[3].set_xlabel(f"mean error {error:.3f} {depth_unit}", fontsize=10, loc="left")
    axes[2].set_xlabel("grey: not measured", fontsize=10, loc="left")
    bar = canvas.colorbar(drawn, ax=axes[3], fraction=0.04, pad=0.02)
    bar.ax.set_title(depth_unit, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    if colors is not None and row.features is not None:
        axes[4].imshow(colors(row.features))


def _same_size(row: PanelRow) -> None:
    images = {"photo": row.photo, "rendered": row.rendered, "rendered_depth": row.rendered_depth}
    if row.features is not None:
        images["features"] = row.features
    for name, image in images.items():
        if image.shape[:2] != row.depth.shape:
            raise InputError(f"View '{row.title}': {name} is {image.shape[:2]}, the depth is {row.depth.shape}.")


def series_of(records: Iterable[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Step -> value of a log's lines, sorted; the last record of a step counts."""
    kept = [record for record in records if isinstance(record.get("step"), int)]
    found = {record["step"]: float(record[key]) for record in kept if isinstance(record.get(key), int | float)}
    return {step: found[step] for step in sorted(found) if math.isfinite(found[step])}


def _draw_lines(axis: Axes, series: Mapping[str, dict[int, float]]) -> None:
    for number, (label, points) in enumerate(series.items()):
        if points:
            axis.plot(
                list(points),
                list(points.values()),
                label=label,
                color=COLORS[number % len(COLORS)],
                linestyle=DASHES[number % len(DASHES)],
                marker="o" if len(points) < 25 else None,
                markersize=4,
            )
    if any(series.values()):
        axis.legend()
