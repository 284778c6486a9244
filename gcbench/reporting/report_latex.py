r"""Comparisons with the paper as LaTeX tables, one `table` each. They need the packages booktabs and xcolor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gcbench import __version__
from gcbench.reporting.comparison import Cell, Comparison
from gcbench.reporting.verdicts import Verdict, metric_unit
from gcbench.reporting.wording import coverage, measured, notices, number, titled

SIGNS = {
    Verdict.REPRODUCED: "=",
    Verdict.WITHIN_NOISE: r"\approx",
    Verdict.BELOW: r"\downarrow",
    Verdict.ABOVE: r"\uparrow",
}
_LEGEND = (
    "Mean and sample standard deviation over seeds; the paper's numbers in grey. "
    r"$=$ reproduced, $\approx$ within noise, $\downarrow$ below, $\uparrow$ above the paper; no sign: not comparable."
)
_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": "$-$",
    "×": r"$\times$",
    "–": "--",
    "’": "'",
    "\n": " ",
}


def render_latex(comparisons: Sequence[Comparison]) -> str:
    r"""Tables to `\input` into a document that has ``\usepackage{booktabs,xcolor}``.

    A cell is our mean ± spread with the sign of its verdict, and the paper's number in grey. Only columns of which a
    cell was run are shown; all of them if none was.
    """
    lines = [
        f"% Made with gcbench {__version__}: {_comment(coverage(comparisons))}",
        r"% Needs \usepackage{booktabs,xcolor}",
    ]
    lines += [f"% {_comment(sentence)}" for sentence in notices(comparisons)]
    for comparison in comparisons:
        lines += ["", *_table(comparison)]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX prints it; letters outside ASCII stay, since LaTeX reads UTF-8."""
    return "".join(_ESCAPED.get(sign, sign) for sign in text)


def _table(comparison: Comparison) -> list[str]:
    table = comparison.table
    run = [any(row[place].entries for row in comparison.cells) for place in range(len(table.columns))]
    shown = [place for place, is_run in enumerate(run) if is_run or not any(run)]
    metrics = [table.metrics_of(table.columns[place]) for place in shown]
    caption = f"{escape(table.title)}. {escape(' '.join(notices([comparison])))} {_LEGEND}"
    lines = [
        r"\begin{table}[t]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:gcbench-{_label(table.id)}}}",
        rf"\begin{{tabular}}{{l{'r' * sum(map(len, metrics))}}}",
        r"\toprule",
        "".join(
            rf" & \multicolumn{{{len(of_column)}}}{{c}}{{{escape(table.columns[place].title)}}}"
            for place, of_column in zip(shown, metrics, strict=True)
        )
        + r" \\",
        " ".join(rf"\cmidrule(lr){{{first}-{last}}}" for first, last in _spans([len(one) for one in metrics])),
        "".join(f" & {escape(titled(metric))}" for of_column in metrics for metric in of_column) + r" \\",
        r"\midrule",
    ]
    for row in comparison.cells:
        cells = [_cell(row[place], metric) for place in shown for metric in row[place].metrics]
        lines.append(f"{escape(row[0].row.title)} & {' & '.join(cells)} \\\\")
    return [*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def _spans(widths: Sequence[int]) -> list[tuple[int, int]]:
    """First and last column of every group; the first group begins beside the row titles."""
    starts = [2]
    for width in widths:
        starts.append(starts[-1] + width)
    return [(first, after - 1) for first, after in pairwise(starts)]


def _cell(cell: Cell, metric: str) -> str:
    """Several entries of a cell stand behind each other, with the letter of their protocol."""
    unit, parts = metric_unit(metric), []
    for entry in cell.entries:
        value = entry.metrics[metric]
        sign = f"$^{{{SIGNS[value.verdict]}}}$" if value.verdict in SIGNS else ""
        letter = rf"\textsuperscript{{{escape(entry.label)}}}" if len(cell.entries) > 1 and entry.label else ""
        parts.append(f"{escape(measured(value, unit))}{sign}{letter}")
    if metric in cell.paper:
        parts.append(rf"\textcolor{{gray}}{{({number(cell.paper[metric].value, unit)})}}")
    return " ".join(parts)


def _label(table_id: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in table_id)


def _comment(text: str) -> str:
    return " ".join(text.split())
