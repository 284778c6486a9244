"""The words and numbers that all formats of a report share. Imports quickly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gcbench.reporting.compare import SYNTHETIC
from gcbench.reporting.comparison import Comparison, seeds_text
from gcbench.reporting.verdicts import PERCENT, MetricUnit, MetricValue, Verdict, metric_unit

SIGNS = {
    Verdict.REPRODUCED: "✓",
    Verdict.WITHIN_NOISE: "≈",
    Verdict.BELOW: "▼",
    Verdict.ABOVE: "▲",
    Verdict.NOT_COMPARABLE: "",
    Verdict.NO_PAPER_VALUE: "",
    Verdict.NOT_RUN: "",
}
EXPLAINED = (
    "± is the sample standard deviation over seeds, low–high the 95 % bootstrap interval over scenes. "
    "A blank cell was not run."
)
_NAMED = 8


def notices(comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know before reading a number, in plain words."""
    entries = [entry for comparison in comparisons for entry in comparison.entries]
    said = []
    synthetic = [entry for entry in entries if entry.synthetic]
    if synthetic:
        which = "These numbers come" if len(synthetic) == len(entries) else "Some of these numbers come"
        said.append(
            f"{which} from synthetic rooms, not from ScanNet or S3DIS. They show that every step works; "
            "they are not comparable with the paper, and no verdict is given."
        )
    reasons = Counter(entry.why_not_comparable for entry in entries if not entry.parts)
    others = [reason for reason in reasons if reason and reason != SYNTHETIC]
    said.extend(f"Not comparable with the paper ({_results(reasons[reason])}): {reason}." for reason in others[:_NAMED])
    if len(others) > _NAMED:
        said.append(f"{len(others) - _NAMED} more reasons stand beside their numbers.")
    unused = [name for comparison in comparisons for name in comparison.unused]
    if unused:
        said.append(f"Results of no cell of their table were left out: {', '.join(unused)}.")
    return said


def coverage(comparisons: Sequence[Comparison]) -> str:
    """One sentence: how much of the tables was run."""
    if len(comparisons) == 1:
        return comparisons[0].coverage()
    run, total = (sum(getattr(one, name) for one in comparisons) for name in ("cells_run", "cells_total"))
    return f"{len(comparisons)} tables, {run} of {total} cells run, {seeds_text(all_seeds(comparisons))}"


def all_seeds(comparisons: Sequence[Comparison]) -> tuple[int, ...]:
    """Every seed that occurs, sorted."""
    return tuple(sorted({seed for comparison in comparisons for seed in comparison.seeds}))


def tally(comparisons: Sequence[Comparison]) -> dict[Verdict, int]:
    """How many numbers have which verdict."""
    total: Counter[Verdict] = Counter()
    for comparison in comparisons:
        total.update(comparison.tally())
    return {verdict: total[verdict] for verdict in Verdict if total[verdict]}


def tally_text(comparisons: Sequence[Comparison]) -> str:
    """The same as a line of text."""
    return ", ".join(f"{count} {verdict.value}" for verdict, count in tally(comparisons).items())


def titled(metric: str) -> str:
    """A metric with its unit where that is not percent, e.g. ``"PSNR (dB)"``."""
    unit = metric_unit(metric).unit
    return metric if unit == PERCENT else f"{metric} ({unit})"


def number(value: float, unit: MetricUnit) -> str:
    """A value as the paper prints it."""
    return "n/a" if math.isnan(value) else f"{value:.{unit.decimals}f}"


def exact(value: float, unit: MetricUnit) -> str:
    """A value with one decimal more than the paper has."""
    return "n/a" if math.isnan(value) else f"{value:.{unit.decimals + 1}f}"


def measured(value: MetricValue, unit: MetricUnit) -> str:
    """Mean and spread."""
    return number(value.mean, unit) + (f" ± {number(value.spread, unit)}" if value.spread is not None else "")


def interval(value: MetricValue, unit: MetricUnit) -> str:
    """The interval over scenes, empty without one."""
    if value.interval is None:
        return ""
    low, high = value.interval
    return f"{number(low, unit)}–{number(high, unit)}"


def signed(value: float, unit: MetricUnit | None = None) -> str:
    """A difference with a real minus sign and never -0.0."""
    decimals = (unit or MetricUnit()).decimals
    text = f"{value:+.{decimals}f}"
    return f"±{0:.{decimals}f}" if float(text) == 0 else text.replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _results(count: int) -> str:
    return f"{count} result{'s' * (count > 1)}"
