"""The paper as data, from `reports/paper/*.yaml`: every cell, printed delta, setting and statement, with its place.

A cell id is ``<table>/<row>/<column>/<metric>``. Values have the unit they are printed in, percent unless a table says
otherwise. Imports quickly: the files are read and checked by `paper_files`, which is imported when one is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gcbench.resources import resource_path

Setting = Literal["scratch", "self-supervised", "supervised"]

_NOT_TABLES = ("settings", "statements")


@dataclass(frozen=True)
class PaperValue:
    """One printed number and its place in the paper."""

    value: float
    place: str


@dataclass(frozen=True)
class PaperDelta:
    """A printed difference: `value` points from the cell `to` to the cell `cell`."""

    cell: str
    to: str
    value: float
    place: str


@dataclass(frozen=True)
class PaperRowFacts:
    """What the paper says of a row beside its numbers; empty where it prints nothing.

    Attributes:
        name: as printed.
        setting: the group it is printed in.
        venue, datasets, type: of the method and its pre-training.
        reference: venue and year of the method in the reference list.
    """

    id: str
    name: str
    setting: Setting
    venue: str = ""
    datasets: str = ""
    type: str = ""
    reference: str = ""


@dataclass(frozen=True)
class PaperMetric:
    """A metric that is not percent.

    Attributes:
        better: which end is the good one.
        reproduced_within: largest difference, in `unit`, that counts as reproduced; None if the number depends on the
            machine, so that no difference says anything.
    """

    unit: str
    decimals: int
    better: Literal["higher", "lower"]
    reproduced_within: float | None


@dataclass(frozen=True)
class PaperTable:
    """A table as the paper prints it.

    Attributes:
        decimals: of metrics that `metrics` does not name.
        reproduced_within: largest difference, in points, that counts as reproduced; of the same metrics.
        noise_factor: a difference is within noise up to this many sample spreads times sqrt(1 + 1/n).
        cells: by id.
        blanks: ids of cells that have a dash, or are drawn without a number.
        rows: by id; empty where the paper prints nothing beside the numbers.
        averages: column -> the columns it averages.
    """

    table: str
    title: str
    source: str
    decimals: int
    reproduced_within: float
    noise_factor: float
    cells: Mapping[str, PaperValue]
    blanks: tuple[str, ...] = ()
    rows: Mapping[str, PaperRowFacts] = field(default_factory=dict)
    deltas: tuple[PaperDelta, ...] = ()
    metrics: Mapping[str, PaperMetric] = field(default_factory=dict)
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def printed_as(self) -> str:
        """Its name in the paper, e.g. ``"Table 7"``: the last part of its source."""
        return self.source.rpartition("), ")[2]

    def unit(self, metric: str) -> str:
        """Unit a metric is printed in: ``"percent"``, ``"dB"``, ``"MB"`` or ``"s/scene"``."""
        return self.metrics[metric].unit if metric in self.metrics else "percent"

    def decimals_of(self, metric: str) -> int:
        """Decimals a metric is printed with."""
        return self.metrics[metric].decimals if metric in self.metrics else self.decimals

    def within(self, metric: str) -> float | None:
        """Largest difference that counts as reproduced, in the metric's unit; None if it depends on the machine."""
        return self.metrics[metric].reproduced_within if metric in self.metrics else self.reproduced_within

    def lower_is_better(self, metric: str) -> bool:
        """Whether a small number is the good one."""
        return metric in self.metrics and self.metrics[metric].better == "lower"


@dataclass(frozen=True)
class PrintedText:
    """What the paper prints at a place."""

    place: str
    printed: str


@dataclass(frozen=True)
class PaperSetting:
    """A training setting.

    Attributes:
        printed: as the paper prints it.
        again: where it is printed once more.
        recipes: the recipes that must hold `values` without a preset.
        values: dotted key of a recipe -> value; empty where no key stands for the setting.
    """

    id: str
    place: str
    printed: str
    again: tuple[PrintedText, ...] = ()
    recipes: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Statement:
    """Something the running text says of numbers; exactly one of `printed`, `above`, `at_most`, `rows`, `texts`.

    Attributes:
        says: in short words.
        value: ``<cell>`` or ``<cell> - <cell>``, in which ``{}`` stands for each of `of`.
        printed: the number it is said to be.
        above: values it is said to be larger than; ``@any`` or ``@<setting>`` stands for every other row.
        at_most: what it is said not to exceed.
        rows, printed_table: rows that are said to stand in a table.
        texts: places that should print the same.
    """

    id: str
    place: str
    says: str
    value: str = ""
    of: tuple[str, ...] = ()
    printed: float | None = None
    above: tuple[str, ...] = ()
    at_most: float | None = None
    rows: tuple[str, ...] = ()
    printed_table: str = ""
    texts: tuple[PrintedText, ...] = ()


@dataclass(frozen=True)
class PrintedTwice:
    """Cells that must agree, since one model stands in several tables; ``{}`` stands for each of `of`."""

    cells: tuple[str, ...]
    of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """All of the paper: tables by id, settings, statements, and cells that it prints more than once."""

    tables: Mapping[str, PaperTable]
    settings: tuple[PaperSetting, ...]
    statements: tuple[Statement, ...]
    printed_twice: tuple[PrintedTwice, ...]


def paper_table_names() -> list[str]:
    """Ids of the tables and figures that the paper prints numbers of, e.g. ``"table1"``."""
    names = (path.stem for path in resource_path("reports", "paper").glob("*.yaml"))
    return sorted(name for name in names if name not in _NOT_TABLES)


def load_paper_table(table_id: str) -> PaperTable:
    """The paper's numbers of a table.

    Raises:
        DataError: there is no such file, or it has an unknown key, a wrong type or the same cell twice.
    """
    from gcbench.reporting.paper_files import read_table

    return read_table(resource_path("reports", "paper", f"{table_id}.yaml"), table_id)


def load_paper_settings() -> tuple[PaperSetting, ...]:
    """The settings of Tables S.1 to S.3 and Sec. 4.1.

    Raises:
        DataError: the file is not what it must be.
    """
    from gcbench.reporting.paper_files import read_settings

    return read_settings(resource_path("reports", "paper", "settings.yaml"))


def load_paper() -> Paper:
    """All of the paper.

    Raises:
        DataError: a file is missing or not what it must be.
    """
    from gcbench.reporting.paper_files import read_statements

    statements, printed_twice = read_statements(resource_path("reports", "paper", "statements.yaml"))
    tables = {table: load_paper_table(table) for table in paper_table_names()}
    return Paper(tables, load_paper_settings(), statements, printed_twice)
