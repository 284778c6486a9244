"""The rule that gives a verdict, case by case."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.reporting.paper import PaperValue, load_paper_table
from gcbench.reporting.verdicts import OTHER_HARDWARE, MetricUnit, MetricValue, Verdict, judged_value, metric_unit
from tests.reporting.made_up import paper_table

PAPER = paper_table("t", {})
PERCENT = MetricUnit()


def judge(values: list[float], interval: tuple[float, float] | None = None, why_not: str = "") -> MetricValue:
    printed = PaperValue(20.0, "Table 9")
    return judged_value(values, printed, PAPER, unit=PERCENT, why_not=why_not, interval=interval)


@pytest.mark.parametrize(
    ("values", "interval", "verdict"),
    [
        ([20.0], None, Verdict.REPRODUCED),
        ([20.5], None, Verdict.REPRODUCED),
        ([20.6], None, Verdict.ABOVE),
        ([19.4], None, Verdict.BELOW),
        ([18.0, 20.0], None, Verdict.WITHIN_NOISE),
        ([18.0, 18.1], None, Verdict.BELOW),
        ([30.0, 30.1], None, Verdict.ABOVE),
        ([23.0], (19.0, 27.0), Verdict.WITHIN_NOISE),
        ([23.0], (20.0, 26.0), Verdict.WITHIN_NOISE),
        ([23.0], (20.1, 26.0), Verdict.ABOVE),
        ([17.0, 17.1], (14.0, 19.9), Verdict.BELOW),
        ([math.nan], None, Verdict.NOT_COMPARABLE),
        ([20.0, math.nan], None, Verdict.NOT_COMPARABLE),
    ],
)
def test_verdicts(values: list[float], interval: tuple[float, float] | None, verdict: Verdict) -> None:
    value = judge(values, interval)
    assert value.verdict is verdict
    assert (value.difference is None) == (verdict is Verdict.NOT_COMPARABLE)


def test_what_may_not_be_compared_has_no_difference_and_says_why() -> None:
    value = judge([20.0, 20.0], (19.0, 21.0), why_not="another protocol")
    assert (value.verdict, value.difference, value.why) == (Verdict.NOT_COMPARABLE, None, "another protocol")
    assert (value.mean, value.spread, value.interval) == (20.0, 0.0, (19.0, 21.0))


def test_without_a_printed_number_there_is_no_verdict() -> None:
    assert judged_value([20.0], None, PAPER, unit=PERCENT).verdict is Verdict.NO_PAPER_VALUE
    assert judged_value([20.0], PaperValue(20.0, ""), None, unit=PERCENT).verdict is Verdict.NO_PAPER_VALUE


@pytest.mark.parametrize("metric", ["memory", "seconds"])
def test_numbers_of_the_hardware_are_never_judged(metric: str) -> None:
    value = judged_value([20.0], PaperValue(20.0, ""), PAPER, unit=metric_unit(metric))
    assert (value.verdict, value.why) == (Verdict.NOT_COMPARABLE, OTHER_HARDWARE)


def test_psnr_is_judged_in_decibel() -> None:
    unit = metric_unit("PSNR")
    assert (unit.unit, unit.scale, unit.decimals) == ("dB", 1.0, 2)
    assert judged_value([20.4], PaperValue(20.0, ""), PAPER, unit=unit).verdict is Verdict.REPRODUCED


@given(st.floats(-50, 50), st.floats(0, 10), st.integers(2, 6))
def test_a_verdict_has_the_sign_of_the_difference_and_noise_only_softens(gap: float, half: float, n: int) -> None:
    alone = judge([20.0 + gap])
    values = [20.0 + gap + (half if number % 2 else -half) for number in range(2 * (n // 2))]
    among = judge(values)
    assert alone.spread is None
    assert alone.verdict is Verdict.REPRODUCED or (alone.verdict is Verdict.ABOVE) == (gap > 0)
    assert among.verdict in (judge([among.mean]).verdict, Verdict.WITHIN_NOISE)
    assert among.spread is not None
    assert among.difference is not None
    inside = abs(among.difference) <= 2 * among.spread * math.sqrt(1 + 1 / len(values))
    assert (among.verdict is Verdict.WITHIN_NOISE) == (inside and abs(among.difference) > 0.5 + 1e-9)


def test_units_are_those_of_the_papers_tables() -> None:
    paper = load_paper_table("table6")
    for metric in ("mIoU", "PSNR", "memory", "seconds"):
        unit = metric_unit(metric)
        assert (unit.unit, unit.decimals) == (paper.unit(metric), paper.decimals_of(metric))
        assert unit.lower_is_better == paper.lower_is_better(metric)
        assert unit.of_machine == (paper.within(metric) is None)
