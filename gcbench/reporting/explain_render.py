"""An explanation for a terminal, as Markdown and as JSON. Rich comes with the call that needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gcbench.reporting.explanation import Explanation, Share
from gcbench.reporting.recipe_differences import RecipeComparison
from gcbench.reporting.stored_jobs import as_yaml
from gcbench.runs.files import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

NOT_SUMMED = "Shares depend on each other: they are measured one at a time and must not be added up."


@dataclass(frozen=True)
class _Table:
    """A titled table of texts; columns named in `numbers` are aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[str] = ()


def render_explanation(explanation: Explanation) -> RenderableType:
    """For a terminal. Nothing is printed here."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [Text(explanation.title, style="bold")]
    parts += [Text(line) for line in _head(explanation)]
    for table in _tables(explanation):
        drawn = Table(title=table.title, title_justify="left", title_style="bold", expand=False)
        for column in table.columns:
            right = column in table.numbers
            drawn.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right)
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        parts += [Text(""), drawn]
    if explanation.unmeasured:
        parts += [Text(""), Text("Not measured", style="bold")]
    for one in explanation.unmeasured:
        parts.append(Text(f"{one.what}: {one.why}"))
        if one.command:  # on one line, so that it can be copied
            parts.append(Text(f"  {one.command}", style="dim", no_wrap=True, overflow="ignore"))
    parts += [Text(""), *(Text(line) for line in _summary(explanation))]
    return Group(*parts)


def explanation_markdown(explanation: Explanation) -> str:
    """As Markdown."""
    lines = [f"# {_escaped(explanation.title)}", ""]
    lines += [f"- {_escaped(line)}" for line in _head(explanation)]
    for table in _tables(explanation):
        lines += ["", f"## {_escaped(table.title)}", "", f"| {' | '.join(table.columns)} |"]
        lines.append("|" + "|".join(" ---: " if column in table.numbers else " --- " for column in table.columns) + "|")
        lines += [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in table.rows]
    if explanation.unmeasured:
        lines += ["", "## Not measured", ""]
    for one in explanation.unmeasured:
        lines.append(f"- {_escaped(f'{one.what}: {one.why}')}")
        lines += ["", f"      {one.command}", ""] if one.command else []
    lines += ["", "## What remains", "", *(f"- {_escaped(line)}" for line in _summary(explanation))]
    return "\n".join(lines) + "\n"


def explanation_json(explanation: Explanation) -> str:
    """As JSON: the fields of `Explanation`, with `mean` and `difference`; NaN is null."""
    content: dict[str, Any] = asdict(explanation)
    content |= {"schema_version": 1, "mean": explanation.mean, "difference": explanation.difference}
    return json.dumps(plain(content), indent=1, allow_nan=False) + "\n"


def _head(explanation: Explanation) -> Iterator[str]:
    """Ours, the paper's, the difference."""
    unit = explanation.unit
    seeds = ", ".join(f"seed {seed}: {_number(value)}" for seed, value in explanation.values.items())
    yield f"Ours: {_number(explanation.mean)} {unit} ({seeds}); {explanation.protocol}"
    if explanation.paper is None:
        yield "Paper: prints no number for this cell"
        return
    yield f"Paper: {explanation.paper:g} {unit} ({explanation.place})"
    difference = explanation.difference
    why_not = f"; no verdict, {explanation.not_comparable}" if explanation.not_comparable else ""
    yield f"Difference: {_signed(math.nan if difference is None else difference)}{why_not}"


def _tables(explanation: Explanation) -> Iterator[_Table]:
    if explanation.shares:
        rows = [_share(share) for share in explanation.shares]
        title = f"Measured, the largest first ({explanation.unit})"
        yield _Table(title, ("what", "change", "number", "share", "seeds", "note"), rows, ("number", "share", "seeds"))
    if explanation.facts:
        yield _Table("Budget and data", ("", "ours", "paper"), [[f.what, f.ours, f.paper] for f in explanation.facts])
    for recipe in explanation.recipes:
        yield _recipe(recipe)


def _share(share: Share) -> list[str]:
    number = "" if share.number is None else _number(share.number)
    size = f"±{_number(share.share)}" if share.number is None else _signed(share.share)
    return [share.kind, share.change, number, size, str(share.seeds), share.note]


def _recipe(recipe: RecipeComparison) -> _Table:
    """Differences by section; those that change nothing of what is learnt are counted at the end."""
    matter = [difference for difference in recipe.differences if not difference.without_effect]
    rows = [
        [d.key, as_yaml(d.ours), as_yaml(d.paper), d.ours_source, d.paper_source]
        for d in sorted(matter, key=attrgetter("section"))
    ]
    left_out = len(recipe.differences) - len(matter)
    more = f"; {left_out} more that only change how it runs" if left_out else ""
    title = f"{recipe.ours} beside the paper's {recipe.paper}: {len(matter)} other values{more}"
    return _Table(title, ("key", "ours", "paper", "source of ours", "source of the paper's"), rows)


def _summary(explanation: Explanation) -> Iterator[str]:
    """What remains, in sentences."""
    largest, difference = explanation.largest, explanation.difference
    if largest is not None and difference is not None:
        yield (
            f"Of the difference of {_signed(difference)} to the paper, the largest change that was measured "
            f"({largest.change}) is worth {_signed(largest.share)}. {NOT_SUMMED}"
        )
    elif largest is not None:
        yield f"The largest change that was measured ({largest.change}) is worth {_signed(largest.share)}. {NOT_SUMMED}"
    else:
        yield "No change was measured."
    if explanation.unmeasured:
        yield f"Not measured: {'; '.join(one.what for one in explanation.unmeasured)}."
    yield from explanation.notes


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}"


def _signed(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:+.2f}"


def _escaped(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for sign in "\\`*_|<>":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
