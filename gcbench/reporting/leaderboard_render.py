"""A leaderboard as terminal tables, Markdown, JSON and one self-contained HTML page that sorts by a click.

Names and links of entries are untrusted: they are escaped in every format. Imports quickly: rich and jinja2 come with
the call that needs them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from gcbench import __version__
from gcbench.reporting.leaderboard import Board, Setting, paper_tables
from gcbench.reporting.leaderboard_ranking import Group, Key, Place, Row, Score, board_keys, rank
from gcbench.resources import resource_path

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SIGNS: dict[Setting, str] = {"scratch": "○", "self-supervised": "●", "supervised": "◆"}
_SETTINGS = "○ from scratch  ● self-supervised pre-training  ◆ supervised pre-training"
NEAR = "~ within noise of the row ranked just before: their intervals, or means ± one standard deviation, overlap"
SYNTHETIC = "Synthetic rooms, not ScanNet or S3DIS: these numbers show that every step works, nothing else."
_MARKDOWN = re.compile(r"([\\`*_\[\]#~|])")


def legend(board: Board, groups: Sequence[Group]) -> list[str]:
    """What the signs that are in use mean."""
    scores = [score for group in groups for row in group.rows for score in row.scores.values()]
    lines = [_SETTINGS] if board.rows else []
    lines += ["± sample standard deviation over seeds"] if any(score.std is not None for score in scores) else []
    if any(score.low is not None for score in scores):
        lines.append("low–high: interval over scenes")
    lines += [NEAR] if any(place.near for group in groups for place in group.places) else []
    return lines


def metric_titles(board: Board) -> str:
    """The metrics of a column, e.g. ``"AP25 / AP50 / mAP"``."""
    return " / ".join(metric.title for metric in board.metrics)


def place_text(place: Place) -> str:
    """A rank with its sign, e.g. ``"~2"``; empty without one."""
    return "" if place.rank is None else f"{'~' if place.near else ''}{place.rank}"


def noise_text(score: Score) -> list[str]:
    """What is known of a number's noise, one thing a line."""
    lines = [] if score.std is None else [f"± {score.std:.1f}"]
    return lines if score.low is None else [*lines, f"{score.low:.1f}–{score.high:.1f}"]


def sort_text(board: Board, group: Group) -> str:
    """What a group is ranked by, in words; empty if by nothing."""
    if group.sort is None:
        return ""
    column, metric = group.sort
    titles = {known.id: known.title for known in board.metrics}
    return f"{board.column(column).title}, {titles[metric]}"


def render_terminal(board: Board, groups: Sequence[Group]) -> RenderableType:
    """A table per protocol; nothing is printed here. The metrics of a column stand side by side."""
    from rich.console import Group as Lines
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{board.title} ({board.id})", style="bold"), Text(board.note, style="dim")]
    for group in groups:
        parts += [Text(), Text(_heading(group), style="bold cyan")]
        if group.synthetic:
            parts.append(Text(SYNTHETIC, style="bold yellow"))
        parts.append(_terminal_table(board, group))
    if not groups:
        parts.append(Text("No entry yet. Add one with `gcbench leaderboard add`."))
    return Lines(*parts, *(Text(line, style="dim") for line in legend(board, groups)))


def _terminal_table(board: Board, group: Group) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    by = sort_text(board, group)
    caption = f"{metric_titles(board)}, percent" + (f"; ranked by {by}" if by else "")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0), caption=caption, caption_justify="left")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("Method", overflow="fold")
    facts = [fact for fact in ("venue", "type") if any(row.paper and getattr(row.paper, fact) for row in group.rows)]
    for fact in facts:
        table.add_column(fact.capitalize(), style="dim")
    for column in board.columns:
        sorted_by = group.sort is not None and group.sort[0] == column.id
        title = column.title if len(board.columns) == 1 else column.title.replace(" ", "\n", 1)
        table.add_column(Text(title, style="bold underline" if sorted_by else ""), justify="right", overflow="fold")
    for place in group.places:
        said = [getattr(place.row.paper, fact) if place.row.paper else "" for fact in facts]
        cells = [_terminal_cell(board, group, place.row, column.id) for column in board.columns]
        table.add_row(place_text(place), Text(_signed_name(place.row)), *said, *cells)
    return table


def _terminal_cell(board: Board, group: Group, row: Row, column: str) -> Text:
    """The metrics of a column in one line, and the noise of the one that is ranked by below it."""
    from rich.text import Text

    scores = [row.scores.get((column, metric.id)) for metric in board.metrics]
    text = Text(justify="right")
    if any(scores):
        text.append(" / ".join(score.printed if score else "–" for score in scores))
    ranked = row.scores.get((column, group.sort[1])) if group.sort else None
    for line in noise_text(ranked) if ranked else ():
        text.append(f"\n{line}", style="dim")
    return text


def render_markdown(board: Board, groups: Sequence[Group]) -> str:
    """GitHub-flavoured Markdown, a table per protocol."""
    titles = {metric.id: metric.title for metric in board.metrics}
    heads = [f"{_md(board.column(column).title)} {titles[metric]}" for column, metric in board_keys(board)]
    lines = [f"# {_md(board.title)} (`{board.id}`)", "", f"{_md(board.note)} Percent."]
    for group in groups:
        by = sort_text(board, group)
        lines += ["", f"## {_md(_heading(group))}", ""]
        lines += [f"> **{SYNTHETIC}**", ""] if group.synthetic else []
        lines += [f"Ranked by {_md(by)}.", ""] if by else []
        lines += [f"| # | Method | {' | '.join(heads)} |", f"| ---: | --- |{' ---: |' * len(heads)}"]
        for place in group.places:
            cells = [_markdown_cell(place.row.scores.get(key), key == group.sort) for key in board_keys(board)]
            lines.append(f"| {_md(place_text(place))} | {_markdown_name(place.row)} | {' | '.join(cells)} |")
    lines += ["", *(f"- {_md(line)}" for line in legend(board, groups))]
    lines += [f"- The paper's numbers: {_md(source)}" for source in _sources(board)]
    return "\n".join(lines) + "\n"


def _markdown_name(row: Row) -> str:
    name = _md(row.name)
    if row.link is not None:
        address = row.link
        for sign, code in (("\\", "%5C"), ("<", "%3C"), (">", "%3E"), ("|", "%7C"), ("`", "%60")):
            address = address.replace(sign, code)
        name = f"[{name}](<{address}>)"
    facts = facts_text(row)
    return f"{_sign(row)}{name}" + (f"<br><sub>{_md(facts)}</sub>" if facts else "")


def _markdown_cell(score: Score | None, ranked_by: bool) -> str:
    if score is None:
        return ""
    value = f"**{score.printed}**" if ranked_by else score.printed
    return value + "".join(f"<br><sub>{line}</sub>" for line in noise_text(score))


def render_json(board: Board, groups: Sequence[Group]) -> str:
    """Everything, for programs; percent throughout."""
    content = {
        "board": board.id,
        "title": board.title,
        "note": board.note,
        "groups": [_json_group(group) for group in groups],
        "gcbench": __version__,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _json_group(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "title": group.title,
        "protocol": dict(group.protocol) or None,
        "synthetic": group.synthetic,
        "ranked_by": "/".join(group.sort) if group.sort else None,
        "rows": [
            {
                "rank": place.rank,
                "within_noise_of_previous": place.near,
                "name": place.row.name,
                "source": "paper" if place.row.paper else "measured",
                "link": place.row.link,
                "paper": place.row.paper.model_dump() if place.row.paper else None,
                "scores": {"/".join(key): _json_score(score) for key, score in place.row.scores.items()},
            }
            for place in group.places
        ],
    }


def _json_score(score: Score) -> dict[str, Any]:
    interval = None if score.low is None else [score.low, score.high]
    spread = None if score.std is None else {"std": score.std, "n": score.seeds}
    return {"value": score.value, "interval": interval, "seeds": spread, "origin": score.origin}


def render_html(board: Board, groups: Sequence[Group], *, made: datetime | None = None) -> str:
    """One HTML file that needs nothing else; without scripts it shows the same tables, unsortable.

    The order and the ranks under every column are computed here and put into the page; its script only moves rows.

    Args:
        board: the board.
        groups: from `leaderboard_ranking.groups`.
        made: the time printed at the bottom; now if None.
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
    script = "\n" + (templates / "leaderboard.js").read_text(encoding="utf-8")
    time = (made or datetime.now(timezone.utc)).astimezone(timezone.utc)
    return environment.get_template("leaderboard.html").render(
        board=board,
        keys=board_keys(board),
        sections=[(group, _heading(group), _orders(board, group)) for group in groups],
        sign=_sign,
        facts_text=facts_text,
        noise_text=noise_text,
        place_text=place_text,
        synthetic=SYNTHETIC,
        legend=legend(board, groups),
        sources=_sources(board),
        # Safe: our own file, and the only script that the page's policy allows to run.
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        made=f"{time:%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def facts_text(row: Row) -> str:
    """What the paper prints beside a method's name, in one line."""
    return " · ".join(filter(None, (row.paper.venue, row.paper.type, row.paper.datasets))) if row.paper else ""


def _orders(board: Board, group: Group) -> dict[Key, dict[str, tuple[int, str]]]:
    """Under every key: a row's name -> its place in the order and its rank as text."""
    return {
        key: {
            place.row.name: (number, place_text(place))
            for number, place in enumerate(rank(group.rows, key))
            if place.rank is not None
        }
        for key in board_keys(board)
    }


def _sources(board: Board) -> list[str]:
    return [table.source.removeprefix("paper: ") for table in paper_tables(board).values()]


def _heading(group: Group) -> str:
    if group.id == "paper":
        return group.title[0].upper() + group.title[1:]
    return f"{'Synthetic: ' if group.synthetic else 'Measured: '}{group.title} [{group.id}]"


def _sign(row: Row) -> str:
    return f"{SIGNS[row.paper.setting]} " if row.paper else ""


def _signed_name(row: Row) -> str:
    return _sign(row) + row.name


def _md(text: str) -> str:
    return html.escape(_MARKDOWN.sub(r"\\\1", text), quote=False)
