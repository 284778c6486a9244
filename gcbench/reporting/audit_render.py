"""An audit of the paper for the terminal, as Markdown, and as a dictionary for JSON. Imports quickly."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from gcbench.reporting.audit import Audit, Finding, Kind
from gcbench.reporting.audit_official import OfficialDifference

if TYPE_CHECKING:
    from rich.console import RenderableType

_TITLE = "The paper against itself"
_OFFICIAL = "The paper's settings against the official configurations"
_ROUNDING = "may be rounding"


def render_audit_terminal(audit: Audit) -> RenderableType:
    """The audit for a terminal; nothing is printed here."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    found, differing = (Table(title=title, header_style="bold", show_lines=True) for title in (_TITLE, _OFFICIAL))
    for name in ("place", "what", "sum"):
        found.add_column(name, overflow="fold")
    for name in ("recipe", "key", "paper", "official"):
        differing.add_column(name, overflow="fold")
    for finding in audit.findings:
        style = "dim" if finding.may_be_rounding else ""
        found.add_row(*(Text(text, style=style) for text in (finding.place, finding.says, _sum(finding))))
    for recipe in audit.official.recipes:
        for number, difference in enumerate(recipe.differences):
            name = "" if number else recipe.recipe
            differing.add_row(*(Text(text) for text in (name, difference.key, _paper(difference), _theirs(difference))))
    summary = Text(_summary(audit), style="bold")
    return Group(summary, *map(Text, _counts(audit)), found, differing, *map(Text, _notes(audit)))


def render_audit_markdown(audit: Audit) -> str:
    """The audit as GitHub-flavoured Markdown."""
    lines = [f"# {_TITLE}", "", _summary(audit), "", *(f"- {line}" for line in _counts(audit)), ""]
    lines += ["| place | what | sum |", "| --- | --- | --- |"]
    lines += [_row(finding.place, finding.says, _sum(finding)) for finding in audit.findings]
    lines += ["", f"# {_OFFICIAL}", "", "| recipe | key | paper | official |", "| --- | --- | --- | --- |"]
    lines += [
        _row(recipe.recipe, difference.key, _paper(difference), _theirs(difference))
        for recipe in audit.official.recipes
        for difference in recipe.differences
    ]
    lines += ["", *(f"- {_md(note)}" for note in _notes(audit))]
    return "\n".join(lines) + "\n"


def audit_as_dict(audit: Audit) -> dict[str, Any]:
    """Everything, for programs; printed and computed numbers are text, with their printed digits."""
    return {
        "schema_version": 1,
        "checked": {kind.value: count for kind, count in audit.checked.items()},
        "findings": [
            {
                "id": finding.id,
                "kind": finding.kind.value,
                "place": finding.place,
                "says": finding.says,
                "printed": finding.printed,
                "computed": finding.computed,
                "sum": finding.sum,
                "may_be_rounding": finding.may_be_rounding,
            }
            for finding in audit.findings
        ],
        "official": [
            {
                "recipe": recipe.recipe,
                "official": recipe.official,
                "printed_by_the_paper": recipe.printed,
                "filled_from_official": recipe.filled,
                "differences": [
                    {
                        "key": difference.key,
                        "paper": difference.paper,
                        "paper_source": difference.paper_source,
                        "printed_by_the_paper": difference.is_printed,
                        "official": difference.official,
                        "official_source": difference.official_source,
                    }
                    for difference in recipe.differences
                ],
            }
            for recipe in audit.official.recipes
        ],
        "without_official": list(audit.official.without_official),
    }


def _summary(audit: Audit) -> str:
    rounding = sum(finding.may_be_rounding for finding in audit.findings)
    said = f"{sum(audit.checked.values())} checks of the paper's numbers, {len(audit.findings)} findings"
    return f"{said}, of which {rounding} may be rounding." if rounding else f"{said}."


def _counts(audit: Audit) -> list[str]:
    found = {kind: sum(finding.kind is kind for finding in audit.findings) for kind in Kind}
    return [f"{kind.value}: {count} checked, {found[kind]} found" for kind, count in audit.checked.items()]


def _notes(audit: Audit) -> list[str]:
    notes = [
        f"{recipe.recipe}: the paper prints {recipe.printed} of its values; "
        f"{recipe.filled} it does not print are the official configuration's."
        for recipe in audit.official.recipes
    ]
    notes += [
        f"{name}: there is no official configuration to compare with." for name in audit.official.without_official
    ]
    return notes


def _sum(finding: Finding) -> str:
    return f"{finding.sum} ({_ROUNDING})" if finding.may_be_rounding else finding.sum


def _paper(difference: OfficialDifference) -> str:
    return f"{difference.paper} [{difference.paper_source}]"


def _theirs(difference: OfficialDifference) -> str:
    return f"{difference.official} [{difference.official_source}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(_md(cell) for cell in cells)} |"


def _md(text: str) -> str:
    escaped = html.escape(text, quote=False)
    for sign in "|*_[]":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped
