"""Figures 1 and 3 of the paper, from what was measured here, with the paper's numbers beside it as grey open marks.

What they show stands in `reports/figures/`. Matplotlib comes with the call. Accuracies are percent, PSNR is dB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gcbench.errors import DataError, InputError
from gcbench.reporting.drawing import COLORS, DASHES, MARKERS, PAPER_GREY, DrawnFigure, canvas_of, finish, styled
from gcbench.reporting.figures import PAPER_LABEL, series_of
from gcbench.resources import resource_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gcbench.reporting.comparison import Cell, Comparison

_M = TypeVar("_M", bound="_Strict")
_WIDTH = 9.6  # inches: a font of 11 points is 11 pixels high where the figure is 700 pixels wide
_APART = 0.15  # of a line's height, between marks: those that agree must not hide each other


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Series(_Strict):
    title: str
    rows: tuple[str, ...]


class _Group(_Strict):
    table: str
    metric: str
    title: str


class _Panel(_Strict):
    title: str
    groups: tuple[_Group, ...]


class _Figure1(_Strict):
    id: str
    title: str
    source: str
    words: str
    series: tuple[_Series, ...]
    panels: tuple[_Panel, ...]


class _Curves(_Strict):
    column: str
    metric: str
    rows: tuple[str, ...]
    log_key: str


class _Masks(_Strict):
    metric: str
    percent: dict[str, float]


class _Figure3(_Strict):
    id: str
    title: str
    source: str
    words: str
    curves: _Curves
    masks: _Masks


@dataclass(frozen=True)
class _Mark:
    """One number: ours with its spread over seeds, or the paper's."""

    value: float
    spread: float = 0.0


def figure_1_rows() -> dict[str, tuple[str, ...]]:
    """Table -> ids of its rows that figure 1 is drawn from."""
    from gcbench.recipe.tables import load_table

    asked = _read("fig1", _Figure1)
    named = {row for series in asked.series for row in series.rows}
    tables = sorted({group.table for panel in asked.panels for group in panel.groups})
    return {table: tuple(row.id for row in load_table(table).rows if row.id in named) for table in tables}


@styled
def figure_1(comparisons: Mapping[str, Comparison]) -> DrawnFigure:
    """Fine-tuning over tasks at the left, linear probing at the right.

    Args:
        comparisons: by table id; those that are missing, and cells that were not run, leave the paper's marks alone.

    Raises:
        InputError: none of the tables that the figure shows is given.
    """
    asked = _read("fig1", _Figure1)
    panels = [(panel, [g for g in panel.groups if g.table in comparisons]) for panel in asked.panels]
    panels = [(panel, groups) for panel, groups in panels if groups]
    if not panels:
        tables = sorted({group.table for panel in asked.panels for group in panel.groups})
        raise InputError("Figure 1 has no table to show.", f"It is drawn from {', '.join(tables)}.")
    lines = [[line for group in groups for line in _lines(comparisons[group.table], group)] for _, groups in panels]
    canvas = canvas_of(_WIDTH, 1.6 + 0.5 * max(map(len, lines)))
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    for axis, (panel, _), cells in zip(axes, panels, lines, strict=True):
        _draw_accuracies(axis, asked.series, cells)
        axis.set_title(panel.title, loc="left", fontweight="bold")
    handles = {text: mark for axis in axes for mark, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    known = sorted(handles)
    canvas.legend([handles[text] for text in known], known, loc="outside lower center", ncols=4)
    shown = [comparisons[group.table] for _, groups in panels for group in groups]
    return finish(canvas, asked.title, _caption(asked, shown))


@styled
def figure_3(comparison: Comparison, logs: Mapping[str, Iterable[Mapping[str, Any]]]) -> DrawnFigure:
    """PSNR over the steps of the core designs above, accuracy over the mask ratio below.

    Args:
        comparison: of the table ``fig3``.
        logs: row id -> lines of its pre-training's log; those of other rows are left out.

    Raises:
        InputError: there is nothing to show: no log, no result, no number of the paper.
    """
    asked = _read("fig3", _Figure3)
    by_row = {cells[0].row.id: {cell.column.id: cell for cell in cells} for cells in comparison.cells if cells}
    curves = {name: series_of(logs.get(name, ()), asked.curves.log_key) for name in asked.curves.rows}
    ends = {name: by_row.get(name, {}).get(asked.curves.column) for name in asked.curves.rows}
    points = {
        column.title: {
            percent: cell
            for name, percent in asked.masks.percent.items()
            if (cell := by_row.get(name, {}).get(column.id))
        }
        for column in comparison.table.columns
    }
    points = {title: cells for title, cells in points.items() if _has(cells.values(), asked.masks.metric)}
    if not any(curves.values()) and not _has(ends.values(), asked.curves.metric) and not points:
        raise InputError("Figure 3 has nothing to show yet.", "Run some of its cells: gcbench reproduce fig3.")
    canvas = canvas_of(_WIDTH, 7.0 if points else 3.6)
    grid = canvas.add_gridspec(2 if points else 1, max(len(points), 1))
    _draw_curves(canvas.add_subplot(grid[0, :]), asked.curves, curves, ends)
    for number, (title, cells) in enumerate(points.items()):
        _draw_masks(canvas.add_subplot(grid[1, number]), asked.masks.metric, title, cells, number)
    return finish(canvas, asked.title, _caption(asked, [comparison]))


def _read(name: str, kind: type[_M]) -> _M:
    from gcbench.recipe.yaml_files import read_yaml

    path = resource_path("reports", "figures", f"{name}.yaml")
    try:
        return kind.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: '{'.'.join(map(str, first['loc']))}': {first['msg']}.") from error


def _caption(asked: _Figure1 | _Figure3, comparisons: Sequence[Comparison]) -> str:
    where = " Ours: synthetic rooms, not comparable with the paper." if any(c.synthetic for c in comparisons) else ""
    return f"{asked.words} Whiskers: standard deviation over seeds. Grey open marks: the paper ({asked.source}).{where}"


def _ours(cell: Cell | None, metric: str) -> _Mark | None:
    """The first entry of a cell, if it has the metric."""
    if cell is None or not cell.entries or metric not in cell.entries[0].metrics:
        return None
    value = cell.entries[0].metrics[metric]
    return None if math.isnan(value.mean) else _Mark(value.mean, value.spread or 0.0)


def _paper(cell: Cell | None, metric: str) -> _Mark | None:
    return None if cell is None or metric not in cell.paper else _Mark(cell.paper[metric].value)


def _has(cells: Iterable[Cell | None], metric: str) -> bool:
    return any(_ours(cell, metric) or _paper(cell, metric) for cell in cells)


def _lines(comparison: Comparison, group: _Group) -> Iterator[tuple[str, str, dict[str, Cell]]]:
    """The lines of a group: (what it says at the axis, metric, cells by row), one for each column with the metric."""
    for number, column in enumerate(comparison.table.columns):
        cells = {row[number].row.id: row[number] for row in comparison.cells}
        if _has(cells.values(), group.metric):
            yield f"{column.title}\n{group.title}, {group.metric}", group.metric, cells


def _draw_accuracies(
    axis: Axes, series: Sequence[_Series], lines: Sequence[tuple[str, str, Mapping[str, Cell]]]
) -> None:
    for place, (_, metric, cells) in enumerate(lines):
        for number, one in enumerate(series):
            cell = next((cells[row] for row in one.rows if row in cells), None)
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            paper, ours = _paper(cell, metric), _ours(cell, metric)
            if paper is not None:
                _draw_paper(
                    axis,
                    [paper.value],
                    [place - _APART * (len(series) - number - 0.4)],
                    marker,
                    f"{one.title}, {PAPER_LABEL}",
                )
            if ours is not None:
                axis.errorbar(
                    ours.value,
                    place + _APART * (number + 0.6),
                    xerr=ours.spread or None,
                    marker=marker,
                    markersize=9,
                    capsize=3,
                    linestyle="none",
                    color=color,
                    label=f"{one.title}, ours",
                )
    axis.set_yticks(range(len(lines)), [label for label, _, _ in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set(xlim=(0, 100), xlabel="accuracy (%)")


def _draw_curves(
    axis: Axes, asked: _Curves, curves: Mapping[str, Mapping[int, float]], ends: Mapping[str, Cell | None]
) -> None:
    """One line for each row; the paper's end values stand right of the last step."""
    last = max((max(points) for points in curves.values() if points), default=1)
    for number, (name, points) in enumerate(curves.items()):
        cell = ends[name]
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(
            list(points),
            list(points.values()),
            color=COLORS[number % len(COLORS)],
            linestyle=DASHES[number % len(DASHES)],
            marker=marker,
            markersize=5,
            label=cell.row.title if cell else name,
        )
        paper = _paper(cell, asked.metric)
        if paper is not None:
            _draw_paper(axis, [1.04 * last], [paper.value], marker, PAPER_LABEL)
    axis.set(xlabel="step", ylabel=f"{asked.metric} (dB)")
    axis.set_title("Core designs", loc="left", fontweight="bold")
    known = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    known = {label: known[label] for label in sorted(known, key=lambda label: label == PAPER_LABEL)}
    axis.legend(list(known.values()), list(known), loc="best")


def _draw_masks(axis: Axes, metric: str, title: str, cells: Mapping[float, Cell], number: int) -> None:
    """One column's accuracy; the paper's numbers where it prints them."""
    ours = {percent: mark for percent, cell in sorted(cells.items()) if (mark := _ours(cell, metric))}
    paper = {percent: mark for percent, cell in sorted(cells.items()) if (mark := _paper(cell, metric))}
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    if ours:
        axis.errorbar(
            list(ours),
            [mark.value for mark in ours.values()],
            yerr=[mark.spread for mark in ours.values()],
            color=color,
            linestyle=DASHES[number % len(DASHES)],
            marker=marker,
            capsize=3,
        )
    _draw_paper(axis, list(paper), [mark.value for mark in paper.values()], marker, PAPER_LABEL)
    axis.set(xlabel="points masked while pre-training (%)", ylabel=f"{metric} (%)")
    axis.set_xticks(sorted(cells))
    axis.set_title(f"Mask ratio, {title}", loc="left", fontweight="bold")


def _draw_paper(axis: Axes, x: Sequence[float], y: Sequence[float], marker: str, title: str) -> None:
    """The paper's numbers: open grey marks in the shape of ours."""
    axis.plot(
        x,
        y,
        marker=marker,
        markersize=9,
        linestyle="none",
        markerfacecolor="white",
        markeredgecolor=PAPER_GREY,
        markeredgewidth=1.6,
        label=title,
    )
