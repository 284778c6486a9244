"""Comparisons with the paper as terminal tables, Markdown and JSON; `report_page` and `report_latex` make the rest.

Every format says on top, in plain words, when numbers cannot be compared with the paper. Imports quickly: rich comes
with the call that needs it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcbench import __version__
from gcbench.errors import DataError
from gcbench.reporting.comparison import Cell, Comparison, Entry
from gcbench.reporting.verdicts import Verdict, metric_unit
from gcbench.reporting.wording import (
    EXPLAINED,
    SIGNS,
    all_seeds,
    coverage,
    interval,
    measured,
    notices,
    number,
    signed,
    tally,
    tally_text,
    titled,
)
from gcbench.runs.files import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

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
    """A picture of a report.

    Attributes:
        png: its bytes, or the path of a PNG file.
        svg: the same as SVG, or None; the page shows it instead.
    """

    title: str
    caption: str
    png: bytes | Path
    svg: bytes | Path | None = None

    def data_uri(self) -> str:
        """The picture inside its own address.

        Raises:
            DataError: the file is missing, or not a PNG or SVG.
        """
        if self.svg is not None:
            content = _content(self.svg)
            if b"<svg" not in content[:4096]:
                raise DataError(f"The figure '{self.title}' is not an SVG image.")
            return "data:image/svg+xml;base64," + base64.b64encode(content).decode()
        content = _content(self.png)
        if not content.startswith(_PNG):
            raise DataError(f"The figure '{self.title}' is not a PNG image.")
        return "data:image/png;base64," + base64.b64encode(content).decode()


def _content(image: bytes | Path) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except OSError as error:
        raise DataError(f"The figure {image} cannot be read: {error.strerror}.") from error


def render_terminal(comparisons: Sequence[Comparison]) -> RenderableType:
    """The tables for a terminal; nothing is printed here. Columns of which no cell was run are named, not shown."""
    from rich.console import Group
    from rich.text import Text

    lines: list[RenderableType] = [Text(sentence, style="bold yellow") for sentence in notices(comparisons)]
    if len(comparisons) > 1:
        lines.append(Text(coverage(comparisons), style="bold"))
    lines.append(Text(tally_text(comparisons), style="dim"))
    for comparison in comparisons:
        lines.append(_terminal_table(comparison))
        lines += [
            Text(f"{use.label}  {use.description} [{use.fingerprint}]", style="dim") for use in comparison.protocols
        ]
    return Group(*lines)


def _terminal_table(comparison: Comparison) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    columns = comparison.table.columns
    run = [any(row[place].entries for row in comparison.cells) for place in range(len(columns))]
    shown = [place for place, cells_run in enumerate(run) if cells_run or not any(run)]
    left_out = [column.title for place, column in enumerate(columns) if place not in shown]
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
    for place in shown:
        units = [titled(metric) for metric in comparison.table.metrics_of(columns[place]) if titled(metric) != metric]
        title = columns[place].title + (f"\n{' / '.join(units)}" if units else "")
        table.add_column(Text(title), justify="right", overflow="fold")
    for row in comparison.cells:
        table.add_row(Text(row[0].row.title), *(_terminal_cell(comparison, row[place]) for place in shown))
    return table


def _terminal_cell(comparison: Comparison, cell: Cell) -> Any:
    """All metrics of a cell side by side, the first one's interval, the differences, and the paper's numbers last."""
    from rich.text import Text

    text = Text(justify="right")
    for entry in cell.entries:
        values = [(entry.metrics[metric], metric_unit(metric)) for metric in cell.metrics]
        letter = f" {entry.label}" if len(comparison.protocols) > 1 else ""
        text.append(" / ".join(measured(*value) for value in values) + letter + "\n", style="bold")
        scenes = interval(*values[0])
        text.append(f"{scenes}\n" if scenes else "", style="dim")
        for value, unit in values:
            if value.difference is not None:
                style = _STYLES[value.verdict]
                text.append(f"{signed(value.difference, unit)} {SIGNS[value.verdict]} ", style=style)
        text.append("\n" if any(value.difference is not None for value, _ in values) else "")
    if not cell.entries and cell.counts and cell.blank.startswith("needs"):
        text.append(f"{cell.blank}\n", style="dim")
    if cell.paper:
        text.append(f"({' / '.join(_printed(cell, metric) for metric in cell.metrics)})", style="dim")
    text.rstrip()
    return text


def _printed(cell: Cell, metric: str) -> str:
    return number(cell.paper[metric].value, metric_unit(metric)) if metric in cell.paper else "–"


def render_markdown(comparisons: Sequence[Comparison]) -> str:
    """The tables as GitHub-flavoured Markdown."""
    several = len(comparisons) > 1
    lines = [f"# {'Results beside the paper' if several else _md(_title(comparisons))}", ""]
    lines += [f"> **{_md(sentence)}**\n" for sentence in notices(comparisons)]
    lines += [f"{coverage(comparisons)}. Percent where no unit is named. {EXPLAINED}", ""]
    lines += [f"Numbers by verdict: {tally_text(comparisons)}.", ""] if tally(comparisons) else []
    for comparison in comparisons:
        lines += [f"## {_md(comparison.table.title)}", "", f"{comparison.coverage()}.", ""] if several else []
        lines += _markdown_table(comparison)
    return "\n".join(lines) + "\n"


def _title(comparisons: Sequence[Comparison]) -> str:
    return comparisons[0].table.title if comparisons else "Nothing was run"


def _markdown_table(comparison: Comparison) -> list[str]:
    table = comparison.table
    heads = [f"{_md(column.title)} {titled(metric)}" for column in table.columns for metric in table.metrics_of(column)]
    lines = [f"| | {' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for row in comparison.cells:
        texts = [_markdown_cell(comparison, cell, metric) for cell in row for metric in cell.metrics]
        lines.append(f"| {_md(row[0].row.title)} | {' | '.join(texts)} |")
    lines.append("")
    lines += [f"- {use.label}: {_md(use.description)} (`{use.fingerprint}`)" for use in comparison.protocols]
    lines += [f"- Paper's numbers: {_md(comparison.source)}"] if comparison.source else []
    return [*lines, ""]


def _markdown_cell(comparison: Comparison, cell: Cell, metric: str) -> str:
    unit = metric_unit(metric)
    parts = []
    for entry in cell.entries:
        value = entry.metrics[metric]
        letter = f" ({entry.label})" if len(comparison.protocols) > 1 and entry.label else ""
        parts.append(f"**{measured(value, unit)}**{letter}")
        parts += [f"<sub>{interval(value, unit)}</sub>"] if value.interval is not None else []
        if value.difference is not None:
            parts.append(f"{signed(value.difference, unit)}, {value.verdict.value}")
    if metric in cell.paper:
        parts.append(f"<sub>paper {_printed(cell, metric)}</sub>")
    return "<br>".join(parts)


def render_json(comparisons: Sequence[Comparison]) -> str:
    """Everything, for programs; NaN is null, values in the unit that stands beside them."""
    content = {
        "schema_version": 2,
        "gcbench": __version__,
        "notices": notices(comparisons),
        "coverage": {
            "cells_run": sum(one.cells_run for one in comparisons),
            "cells_total": sum(one.cells_total for one in comparisons),
            "seeds": all_seeds(comparisons),
            "verdicts": {verdict.value: count for verdict, count in tally(comparisons).items()},
        },
        "tables": [_json_table(comparison) for comparison in comparisons],
    }
    return json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n"


def _json_table(comparison: Comparison) -> dict[str, Any]:
    metrics = comparison.table.all_metrics
    return {
        "table": comparison.table.id,
        "title": comparison.table.title,
        "paper": comparison.source,
        "coverage": {"cells_run": comparison.cells_run, "cells_total": comparison.cells_total},
        "verdicts": {verdict.value: count for verdict, count in comparison.tally().items()},
        "synthetic": comparison.synthetic,
        "units": {metric: metric_unit(metric).unit for metric in metrics},
        "protocols": {
            use.label: {"fingerprint": use.fingerprint, "is": use.description} for use in comparison.protocols
        },
        "cells": [_json_cell(cell) for row in comparison.cells for cell in row if cell.exists],
        "unused": comparison.unused,
    }


def _json_cell(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.row.id,
        "column": cell.column.id,
        "status": "run" if cell.entries else Verdict.NOT_RUN.value,
        "blank": cell.blank or None,
        "paper": {metric: {"value": value.value, "place": value.place} for metric, value in cell.paper.items()},
        "entries": [_json_entry(entry) for entry in cell.entries],
    }


def _json_entry(entry: Entry) -> dict[str, Any]:
    return {
        "protocol": entry.label,
        "seeds": entry.seeds,
        "not_comparable": entry.why_not_comparable or None,
        "warnings": entry.warnings,
        "metrics": {
            metric: {
                "mean": value.mean,
                "spread": value.spread,
                "interval": value.interval,
                "values": value.values,
                "difference": value.difference,
                "verdict": value.verdict.value,
                "why": value.why or None,
            }
            for metric, value in entry.metrics.items()
        },
        "provenance": [] if entry.parts else [one.provenance.model_dump(mode="json") for one in entry.results],
    }


def _md(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
