"""Comparisons with the paper as one HTML file: tables that sort by a click, cells that open their provenance.

The file needs nothing else: no request, pictures inside, and one script of our own, which the page's policy names by
its hash. Without scripts the same tables are there, unsortable. Imports quickly: jinja2 comes with the call.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from gcbench import __version__
from gcbench.reporting import provenance_text, wording
from gcbench.reporting.comparison import Cell, Comparison, Entry
from gcbench.reporting.render import Figure
from gcbench.reporting.verdicts import JUDGED, metric_unit
from gcbench.resources import resource_path
from gcbench.runs.files import plain


def render_html(
    comparisons: Sequence[Comparison],
    figures: Sequence[Figure] = (),
    *,
    table_figures: Mapping[str, Sequence[Figure]] | None = None,
    made: datetime | None = None,
) -> str:
    """One HTML file.

    Args:
        comparisons: the tables, in order.
        figures: shown after all tables.
        table_figures: shown below their table, by its id.
        made: the time printed at the bottom; now if None.

    Raises:
        DataError: a figure is not an image.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = resource_path("reports", "templates")
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=wording.number,
        signed=wording.signed,
        measured=wording.measured,
        duration=wording.duration,
        interval=wording.interval,
        titled=wording.titled,
        unit=metric_unit,
    )
    script = "\n" + (templates / "report.js").read_text(encoding="utf-8")
    time = (made or datetime.now(timezone.utc)).astimezone(timezone.utc)
    found = wording.tally(comparisons)
    return environment.get_template("report.html").render(
        title=comparisons[0].table.title if len(comparisons) == 1 else "GaussianCross beside its paper",
        comparisons=comparisons,
        notices=wording.notices(comparisons),
        explained=wording.EXPLAINED,
        cells_run=sum(one.cells_run for one in comparisons),
        cells_total=sum(one.cells_total for one in comparisons),
        seeds=wording.all_seeds(comparisons),
        seconds=_seconds(comparisons),
        tally=found,
        judged=[verdict for verdict in JUDGED if verdict in found],
        signs=wording.SIGNS,
        largest={one.table.id: largest_numbers(one) for one in comparisons},
        bar=_bar,
        anchor=_anchor,
        sort_value=_sort_value,
        heading=provenance_text.heading,
        facts=provenance_text.entry_facts,
        seed_lines=provenance_text.seed_lines,
        class_means=provenance_text.class_means,
        recipe_text=_recipe_text,
        figures=[(figure, figure.data_uri()) for figure in figures],
        table_figures={
            table: [(figure, figure.data_uri()) for figure in some] for table, some in (table_figures or {}).items()
        },
        # Safe: our own file, and the only script that the page's policy allows to run.
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=f"{time:%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def largest_numbers(comparison: Comparison) -> dict[tuple[str, str], float]:
    """Largest number shown, by column id and unit: the full width of a bar."""
    found: dict[tuple[str, str], float] = {}
    for cell in (cell for row in comparison.cells for cell in row):
        for metric in cell.metrics:
            shown = [entry.metrics[metric].mean for entry in cell.entries]
            shown += [cell.paper[metric].value] if metric in cell.paper else []
            key = (cell.column.id, metric_unit(metric).unit)
            found[key] = max([found.get(key, 0.0), *(value for value in shown if not math.isnan(value))])
    return found


def _bar(largest: Mapping[tuple[str, str], float], cell: Cell, metric: str, value: float) -> float:
    """Width of a bar, percent of its cell."""
    full = largest[cell.column.id, metric_unit(metric).unit]
    return round(100 * value / full, 1) if full and value > 0 else 0


def _anchor(comparison: Comparison, cell: Cell, index: int) -> str:
    return f"p-{comparison.table.id}-{cell.row.id}-{cell.column.id}-{index}"


def _sort_value(cell: Cell, metric: str) -> str:
    """What a cell is sorted by: our first number; empty without one, which sorts last."""
    value = cell.entries[0].metrics[metric].mean if cell.entries else math.nan
    return "" if math.isnan(value) else repr(round(value, 6))


def _recipe_text(entry: Entry) -> str:
    if entry.parts:
        return ""
    return json.dumps(plain(entry.results[0].provenance.resolved_recipe), indent=1, ensure_ascii=False)


def _seconds(comparisons: Sequence[Comparison]) -> float:
    """Compute behind all results; one that stands in several tables counts once."""
    origins: dict[Any, float] = {}
    for entry in (entry for comparison in comparisons for entry in comparison.entries):
        for result in entry.results:
            origin = result.provenance
            origins[result.kind, origin.recipe_hash, result.seed, origin.started, origin.ended] = origin.wall_seconds
    return sum(origins.values())
