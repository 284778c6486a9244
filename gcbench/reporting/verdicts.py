"""What a measured number says about the paper's: units, noise, and the one rule that gives a verdict.

Imports no torch, and quickly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from gcbench.reporting.paper import PaperTable, PaperValue

PERCENT = "percent"
OTHER_HARDWARE = "measured on other hardware"
_ROUNDING = 1e-9


class Verdict(str, Enum):
    """What a cell says about the paper's number."""

    REPRODUCED = "reproduced"
    WITHIN_NOISE = "within noise"
    BELOW = "below"
    ABOVE = "above"
    NOT_COMPARABLE = "not comparable"
    NO_PAPER_VALUE = "no paper value"
    NOT_RUN = "not run"


JUDGED = (Verdict.REPRODUCED, Verdict.WITHIN_NOISE, Verdict.BELOW, Verdict.ABOVE)


@dataclass(frozen=True)
class MetricUnit:
    """How a metric is written.

    Attributes:
        unit: ``"percent"`` of a fraction, or the unit that results store.
        decimals: as the paper prints it.
        of_machine: it depends on the hardware, and is never judged.
        lower_is_better: for colours and sorting; ``below`` and ``above`` keep their plain meaning.
    """

    unit: str = PERCENT
    decimals: int = 1
    of_machine: bool = False
    lower_is_better: bool = False

    @property
    def scale(self) -> float:
        """From what results store to what is shown."""
        return 100.0 if self.unit == PERCENT else 1.0


_PRETRAINING = {
    "PSNR": MetricUnit("dB", 2),
    "memory": MetricUnit("MB", 0, of_machine=True, lower_is_better=True),
    "seconds": MetricUnit("s/scene", 3, of_machine=True, lower_is_better=True),
}


def metric_unit(metric: str) -> MetricUnit:
    """How a metric is written; what is not of a pre-training is a fraction, shown as percent."""
    return _PRETRAINING.get(metric, MetricUnit())


@dataclass(frozen=True)
class MetricValue:
    """One metric of one entry, in its unit.

    Attributes:
        mean: over the seeds; NaN if it is undefined for one of them.
        spread: sample standard deviation over the seeds, None for one seed.
        values: one per seed.
        difference: mean minus the paper's value; None where they are not comparable.
        why: a verdict is not given, in words; empty if there is nothing to say.
        interval: 95 % bootstrap interval over scenes of the mean; None where it was not computed.
    """

    mean: float
    spread: float | None
    values: tuple[float, ...]
    difference: float | None
    verdict: Verdict
    why: str = ""
    interval: tuple[float, float] | None = None


def judged_value(
    values: Sequence[float],
    printed: PaperValue | None,
    paper: PaperTable | None,
    *,
    unit: MetricUnit,
    why_not: str = "",
    interval: tuple[float, float] | None = None,
) -> MetricValue:
    """The value of an entry with its verdict.

    The rule, first match wins:
        not comparable   the rooms are synthetic, a preset or another protocol was used, the number depends on the
                         hardware, or it is undefined
        no paper value   the paper prints no such number
        reproduced       |difference| <= the paper file's `reproduced_within`
        within noise     |difference| <= `noise_factor` * spread * sqrt(1 + 1/n): the paper's number is one run, so this
                         is the noise of its difference to a mean of n runs; or the interval over scenes holds it
        below, above     by the sign of the difference, whichever is better

    Args:
        values: one per seed, in the metric's unit.
        printed: the paper's number.
        paper: its table, with the two thresholds.
        unit: of the metric.
        why_not: why this entry may not be compared; empty if it may.
        interval: over scenes, in the metric's unit.
    """
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 and not math.isnan(mean) else None
    measured = (mean, spread, tuple(values))
    why = why_not or (OTHER_HARDWARE if unit.of_machine else "") or ("undefined" if math.isnan(mean) else "")
    if why:
        return MetricValue(*measured, None, Verdict.NOT_COMPARABLE, why, interval)
    if printed is None or paper is None:
        return MetricValue(*measured, None, Verdict.NO_PAPER_VALUE, "", interval)
    difference = mean - printed.value
    noise = 0.0 if spread is None else paper.noise_factor * spread * math.sqrt(1 + 1 / len(values))
    if abs(difference) <= paper.reproduced_within + _ROUNDING:
        verdict = Verdict.REPRODUCED
    elif abs(difference) <= noise or (interval is not None and interval[0] <= printed.value <= interval[1]):
        verdict = Verdict.WITHIN_NOISE
    else:
        verdict = Verdict.BELOW if difference < 0 else Verdict.ABOVE
    return MetricValue(*measured, difference, verdict, "", interval)
