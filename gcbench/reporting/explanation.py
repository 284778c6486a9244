"""What can be said of why a number differs: measured shares, what was not measured, and recipes beside the paper's.

Numbers are in the tables' unit: percent; of a pre-training dB, MB or seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gcbench.reporting.recipe_differences import RecipeComparison

ShareKind = Literal["scoring", "checkpoint", "recipe", "column", "seeds", "scenes"]


@dataclass(frozen=True)
class Share:
    """What one thing is worth.

    Attributes:
        kind: which sort of thing.
        change: in words, against what ours is.
        number: with the change, mean over the seeds it was measured with; None for a spread.
        share: `number` less ours of the same seeds; of a spread its size, which may go either way.
        seeds: how many it was measured with.
        note: what a reader must know of it.
    """

    kind: ShareKind
    change: str
    number: float | None
    share: float
    seeds: int
    note: str = ""


@dataclass(frozen=True)
class Unmeasured:
    """What may matter and was not measured: why, and the command that measures it, if one does."""

    what: str
    why: str
    command: str = ""


@dataclass(frozen=True)
class Fact:
    """One line on budget or data: ours beside the paper's."""

    what: str
    ours: str
    paper: str


@dataclass(frozen=True)
class Explanation:
    """Everything that can be said of a cell's number.

    Attributes:
        cell: ``<table>/<row>/<column>/<metric>``.
        unit: ``%``, or of a pre-training ``dB``, ``MB`` or ``s``.
        values: ours by seed.
        paper: the paper's number, None if it prints none; `place`: where it stands.
        not_comparable: why no verdict is possible; empty if one is.
        protocol: how ours was measured, one line.
        runs: names of the runs behind it.
        shares: what was measured, the largest first.
        unmeasured: what was not.
        recipes: the training's and its pre-training's beside the paper's.
        facts: budgets and data.
        notes: what else a reader must know.
    """

    cell: str
    title: str
    unit: str
    values: Mapping[int, float]
    paper: float | None
    place: str
    not_comparable: str
    protocol: str
    runs: tuple[str, ...]
    shares: tuple[Share, ...] = ()
    unmeasured: tuple[Unmeasured, ...] = ()
    recipes: tuple[RecipeComparison, ...] = ()
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def difference(self) -> float | None:
        """Ours less the paper's; a verdict only where nothing stands in `not_comparable`."""
        return None if self.paper is None else self.mean - self.paper

    @property
    def largest(self) -> Share | None:
        """The largest share of a change; a spread is none."""
        return next((share for share in self.shares if share.number is not None), None)


def by_size(shares: Iterable[Share]) -> tuple[Share, ...]:
    """The largest first, whichever way it goes; what has no value last."""
    return tuple(sorted(shares, key=lambda share: -abs(share.share) if share.share == share.share else 1.0))
