"""A comparison as a terminal table, Markdown, JSON and one self-contained HTML file.

Every format says on top, in plain words, when numbers cannot be compared with the paper. Imports quickly: rich and
jinja2 come with the call that needs them.
"""

from __future__ import annotations

import base64
import html
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcbench import __version__
from gcbench.errors import DataError
from gcbench.reporting.compare import SYNTHETIC, Cell, Comparison, Entry, MetricValue, Verdict
from gcbench.resources import resource_path
from gcbench.runs.files import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGNS = {
    Verdict.REPRODUCED: "✓",
    Verdict.WITHIN_NOISE: "≈",
    Verdict.BELOW: "▼",
    Verdict.ABOVE: "▲",
    Verdict.NOT_COMPARABLE: "",
    Verdict.NO_PAPER_VALUE: "",
    Verdict.NOT_RUN: "",
}
_STYLES = {
    Verdict.REPRODUCED: "green",
    Verdict.WITHIN_NOISE: "cyan",
    Verdict.BELOW: "yellow",
    Verdict.ABOVE: "magenta",
}
_MANY_COLUMNS = 6  # in a terminal of 80 characters they need every one of them
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Figure:
    """A picture of a report: `png` is its bytes or the path of a PNG file."""

    title: str
    caption: str
    png: bytes | Path

    def data_uri(self) -> str:
        """The picture inside its own address.

        Raises:
            DataError: the file is missing or not a PNG.
        """
        if isinstance(self.png, Path):
            try:
                content = self.png.read_bytes()
            except OSError as error:
                raise DataError(f"The figure {self.png} cannot be read: {error.strerror}.") from error
        else:
            content = self.png
        if not content.startswith(_PNG):
            raise DataError(f"The figure '{self.title}' is not a PNG image.")
        return "data:image/png;base64," + base64.b64encode(content).decode()


def notices(comparison: Comparison) -> list[str]:
    """What a reader must know before reading a number, in plain words."""
    entries = comparison.entries
    said = []
    synthetic = [entry for entry in entries if entry.results[0].provenance.synthetic]
    if synthetic:
        which = "These numbers come" if len(synthetic) == len(entries) else "Some of these numbers come"
        said.append(
            f"{which} from synthetic rooms, not from ScanNet or S3DIS. They show that every step works; "
            "they are not comparable with the paper, and no verdict is given."
        )
    others = [reason for reason in comparison.reasons if reason != SYNTHETIC]
    said.extend(f"Not comparable with the paper: {reason}." for reason in others)
    if comparison.unused:
        said.append(f"Results of no cell of this table were left out: {', '.join(comparison.unused)}.")
    return said


def render_terminal(comparison: Comparison) -> RenderableType:
    """The table for a terminal; nothing is printed here. Columns of which no cell was run are named, not shown."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    run = [any(row[number].entries for row in comparison.cells) for number in range(len(comparison.table.columns))]
    shown = [number for number, cells_run in enumerate(run) if cells_run or not any(run)]
    left_out = [column.title for number, column in enumerate(comparison.table.columns) if number not in shown]
    caption = comparison.coverage() + (f"; not run: {', '.join(left_out)}" if left_out else "")
    table = Table(
        title=comparison.table.title,
        caption=caption,
        header_style="bold",
        show_lines=True,
        collapse_padding=len(shown) >= _MANY_COLUMNS,
        pad_edge=len(shown) < _MANY_COLUMNS,
    )
    table.add_column("percent (paper)", overflow="fold")
    for number in shown:
        table.add_column(comparison.table.columns[number].title, justify="right", overflow="fold")
    for row in comparison.cells:
        table.add_row(Text(row[0].row.title), *(_terminal_cell(comparison, row[number]) for number in shown))
    lines = [Text(sentence, style="bold yellow") for sentence in notices(comparison)]
    protocols = [
        Text(f"{use.label}  {use.description} [{use.fingerprint}]", style="dim") for use in comparison.protocols
    ]
    return Group(*lines, table, *protocols)


def _terminal_cell(comparison: Comparison, cell: Cell) -> Any:
    """All metrics of a cell side by side, the differences below them, the paper's numbers last."""
    from rich.text import Text

    text = Text(justify="right")
    for entry in cell.entries:
        values = [entry.metrics[metric] for metric in comparison.table.metrics]
        letter = f" {entry.label}" if len(comparison.protocols) > 1 else ""
        text.append(" / ".join(_measured(value) for value in values) + letter + "\n", style="bold")
        for value in values:
            if value.difference is not None:
                text.append(f"{signed(value.difference)} {SIGNS[value.verdict]} ", style=_STYLES[value.verdict])
        text.append("\n" if any(value.difference is not None for value in values) else "")
    if cell.paper:
        printed = (number(cell.paper[m].value) if m in cell.paper else "–" for m in comparison.table.metrics)
        text.append(f"({' / '.join(printed)})", style="dim")
    text.rstrip()
    return text


def render_markdown(comparison: Comparison) -> str:
    """The table as GitHub-flavoured Markdown."""
    lines = [f"# {_md(comparison.table.title)}", ""]
    lines += [f"> **{_md(sentence)}**\n" for sentence in notices(comparison)]
    lines += [f"{comparison.coverage()}. Percent; ± is the sample standard deviation over seeds.", ""]
    heads = [
        f"{_md(column.title)} {metric}" for column in comparison.table.columns for metric in comparison.table.metrics
    ]
    lines += [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for row in comparison.cells:
        texts = [_markdown_cell(comparison, cell, metric) for cell in row for metric in comparison.table.metrics]
        lines.append(f"| {_md(row[0].row.title)} | {' | '.join(texts)} |")
    lines.append("")
    lines += [f"- {use.label}: {_md(use.description)} (`{use.fingerprint}`)" for use in comparison.protocols]
    if comparison.source:
        lines.append(f"- Paper's numbers: {_md(comparison.source)}")
    return "\n".join(lines) + "\n"


def _markdown_cell(comparison: Comparison, cell: Cell, metric: str) -> str:
    parts = []
    for entry in cell.entries:
        value = entry.metrics[metric]
        letter = f" ({entry.label})" if len(comparison.protocols) > 1 else ""
        parts.append(f"**{_measured(value)}**{letter}")
        if value.difference is not None:
            parts.append(f"{signed(value.difference)}, {value.verdict.value}")
    if metric in cell.paper:
        parts.append(f"<sub>paper {number(cell.paper[metric].value)}</sub>")
    return "<br>".join(parts)


def render_json(comparison: Comparison) -> str:
    """Everything, for programs; NaN is null, percent throughout."""
    content = {
        "table": comparison.table.id,
        "title": comparison.table.title,
        "paper": comparison.source,
        "coverage": {"cells_run": comparison.cells_run, "cells_total": comparison.cells_total},
        "synthetic": comparison.synthetic,
        "notices": notices(comparison),
        "protocols": {
            use.label: {"fingerprint": use.fingerprint, "is": use.description} for use in comparison.protocols
        },
        "cells": [_json_cell(cell) for row in comparison.cells for cell in row],
        "unused": comparison.unused,
        "gcbench": __version__,
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n"


def _json_cell(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.row.id,
        "column": cell.column.id,
        "status": "run" if cell.entries else Verdict.NOT_RUN.value,
        "paper": {metric: {"value": value.value, "place": value.place} for metric, value in cell.paper.items()},
        "entries": [
            {
                "protocol": entry.label,
                "seeds": entry.seeds,
                "not_comparable": entry.why_not_comparable or None,
                "warnings": entry.warnings,
                "metrics": {
                    metric: {
                        "mean": value.mean,
                        "spread": value.spread,
                        "values": value.values,
                        "difference": value.difference,
                        "verdict": value.verdict.value,
                    }
                    for metric, value in entry.metrics.items()
                },
                "provenance": [result.provenance.model_dump(mode="json") for result in entry.results],
            }
            for entry in cell.entries
        ],
    }


def render_html(comparison: Comparison, figures: Sequence[Figure] = (), *, made: datetime | None = None) -> str:
    """One HTML file that needs nothing else: no script, no request, pictures inside.

    Args:
        comparison: the table.
        figures: shown in order below it.
        made: the time printed at the bottom; now if None.

    Raises:
        DataError: a figure is not a PNG image.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource_path("reports", "templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, exact=exact, measured=_measured, duration=duration)
    largest = _largest(comparison)
    time = (made or datetime.now(timezone.utc)).astimezone(timezone.utc)
    return environment.get_template("report.html").render(
        comparison=comparison,
        table=comparison.table,
        notices=notices(comparison),
        tally=comparison.tally(),
        signs=SIGNS,
        verdicts=Verdict,
        bar=lambda column, value: round(100 * value / largest[column], 1) if largest.get(column) and value > 0 else 0,
        class_means=class_means,
        recipe_text=_recipe_text,
        seconds=sum(result.provenance.wall_seconds for entry in comparison.entries for result in entry.results),
        figures=[(figure, figure.data_uri()) for figure in figures],
        made=f"{time:%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def class_means(entry: Entry) -> dict[str, dict[str, float]]:
    """Class -> metric -> percent, mean over the entry's seeds; NaN where undefined."""
    tables = [result.class_scores() for result in entry.results]
    return {
        name: {metric: 100.0 * statistics.fmean(table[name][metric] for table in tables) for metric in scores}
        for name, scores in tables[0].items()
    }


def number(value: float) -> str:
    """Percent as the paper prints it."""
    return "n/a" if math.isnan(value) else f"{value:.1f}"


def exact(value: float) -> str:
    """Percent with two decimals."""
    return "n/a" if math.isnan(value) else f"{value:.2f}"


def signed(value: float) -> str:
    """A difference in points, with a real minus sign and never -0.0."""
    text = f"{value:+.1f}"
    return "±0.0" if float(text) == 0 else text.replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _measured(value: MetricValue) -> str:
    return number(value.mean) + (f" ± {value.spread:.1f}" if value.spread is not None else "")


def _largest(comparison: Comparison) -> dict[str, float]:
    """Largest number shown in each column, by column id: the full width of a bar."""
    found: dict[str, float] = {}
    for row in comparison.cells:
        for cell in row:
            ours = [value.mean for entry in cell.entries for value in entry.metrics.values()]
            shown = [*ours, *(value.value for value in cell.paper.values())]
            known = [value for value in shown if not math.isnan(value)]
            found[cell.column.id] = max([found.get(cell.column.id, 0.0), *known])
    return found


def _recipe_text(entry: Entry) -> str:
    return json.dumps(plain(entry.results[0].provenance.resolved_recipe), indent=1, ensure_ascii=False)


def _md(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
