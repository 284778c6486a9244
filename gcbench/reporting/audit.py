"""Checks the paper against itself: deltas, averages, sentences, cells printed twice, settings and venues.

Printed numbers are taken as exact decimals. A sum agrees if it is within half a unit of the last printed digit, so the
mean of 75.4 and 33.3, which is 54.35, may be printed as 54.3 or 54.4. A sum that is off by one unit is a finding too,
marked as one that may come from rounding: the authors had more digits than they print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum

from gcbench.errors import DataError
from gcbench.reporting.audit_official import OfficialComparison, compare_official
from gcbench.reporting.paper import Paper, PaperTable, Statement, load_paper

_PREPRINT = "arXiv"


class Kind(str, Enum):
    """What was checked."""

    DELTA = "printed delta"
    AVERAGE = "average column"
    STATEMENT = "statement of the text"
    TWICE = "number printed more than once"
    SETTING = "setting printed more than once"
    VENUE = "venue of a method"


@dataclass(frozen=True)
class Finding:
    """One place where the paper disagrees with itself.

    Attributes:
        id: of the cell, statement, setting or row.
        place: in the paper, of what is printed.
        says: what the printed number or word stands for.
        computed: what the paper's other numbers give.
        sum: the computation in one line, e.g. ``"62.7 - 56.9 = 5.8, printed 6.2"``.
        may_be_rounding: off by one unit of the last digit only, which unrounded values could explain.
    """

    id: str
    kind: Kind
    place: str
    says: str
    printed: str
    computed: str
    sum: str
    may_be_rounding: bool = False


@dataclass(frozen=True)
class Audit:
    """What was checked, how often, what was found, and how the official configurations differ from the paper."""

    findings: tuple[Finding, ...]
    checked: Mapping[Kind, int]
    official: OfficialComparison


def audit_paper(paper: Paper | None = None) -> Audit:
    """Check the paper's numbers against each other, and its settings against the official configurations.

    Args:
        paper: other data than `reports/paper`.

    Raises:
        DataError: a file of `reports/paper` is not what it must be, or names a cell that there is not.
    """
    auditor = _Auditor(load_paper() if paper is None else paper)
    checks = list(auditor.checks())
    checked = Counter(dict.fromkeys(Kind, 0))
    checked.update(kind for kind, _ in checks)
    findings = tuple(finding for _, found in checks for finding in found)
    return Audit(findings, dict(checked), compare_official(auditor.paper.settings))


_Check = tuple[Kind, tuple[Finding, ...]]


@dataclass(frozen=True)
class _Quantity:
    """A number of the paper or computed from some, with the text that shows how."""

    amount: Decimal
    text: str


class _Auditor:
    """The checks, over cells as exact decimals with the digits that are printed."""

    def __init__(self, paper: Paper) -> None:
        self.paper = paper
        self.cells = {
            key: Decimal(f"{cell.value:.{table.decimals_of(key.split('/')[3])}f}")
            for table in paper.tables.values()
            for key, cell in table.cells.items()
        }
        self.places = {key: cell.place for table in paper.tables.values() for key, cell in table.cells.items()}

    def checks(self) -> Iterator[_Check]:
        """Every check with what it found; in the order of the tables, then of the text."""
        for table in self.paper.tables.values():
            yield from self._deltas(table)
            yield from self._averages(table)
            yield from _venues(table)
        for statement in self.paper.statements:
            for item in statement.of or ("",):
                yield Kind.STATEMENT, tuple(self._statement(statement, item))
        yield from self._printed_twice()
        yield from self._settings()

    def _deltas(self, table: PaperTable) -> Iterator[_Check]:
        for delta in table.deltas:
            computed = self._quantity(f"{delta.cell} - {delta.to}")
            row = delta.to.split("/")[1]
            says = f"difference to {table.rows[row].name if row in table.rows else row}"
            yield Kind.DELTA, _differs(delta.cell, Kind.DELTA, delta.place, says, delta.value, computed)

    def _averages(self, table: PaperTable) -> Iterator[_Check]:
        for key, cell in table.cells.items():
            table_id, row, column, metric = key.split("/")
            of = table.averages.get(column)
            if of is None:
                continue
            parts = [self._cell(f"{table_id}/{row}/{other}/{metric}") for other in of]
            mean = sum(parts, Decimal()) / len(parts)
            computed = _Quantity(mean, f"({' + '.join(map(str, parts))}) / {len(parts)} = {mean}")
            says = f"mean of {' and '.join(of)}"
            yield Kind.AVERAGE, _differs(key, Kind.AVERAGE, cell.place, says, cell.value, computed)

    def _statement(self, said: Statement, item: str) -> Iterator[Finding]:
        """What does not hold of a statement, for one of the items that it is of."""
        if said.texts:
            yield from self._texts(said)
        elif said.rows:
            yield from self._rows(said)
        else:
            yield from self._value(said, item)

    def _texts(self, said: Statement) -> Iterator[Finding]:
        first = said.texts[0]
        for text in said.texts[1:]:
            if text.printed != first.printed:
                told = f"{text.printed}; {first.place}: {first.printed}"
                yield Finding(said.id, Kind.STATEMENT, said.place, said.says, text.printed, first.printed, told)

    def _rows(self, said: Statement) -> Iterator[Finding]:
        tables = sorted({self._table_of(row) for row in said.rows})
        if tables != [said.printed_table]:
            found = " and ".join(self._table(table).printed_as for table in tables)
            printed = self._table(said.printed_table).printed_as
            told = f"{', '.join(row.split('/')[1] for row in said.rows)}: in {found}, printed {printed}"
            yield Finding(said.id, Kind.STATEMENT, said.place, said.says, printed, found, told)

    def _value(self, said: Statement, item: str) -> Iterator[Finding]:
        key, says = (f"{said.id}/{item}", f"{said.says}: {item}") if item else (said.id, said.says)
        expression = said.value.replace("{}", item)
        computed = self._quantity(expression)
        if said.printed is not None:
            for found in _differs(key, Kind.STATEMENT, said.place, says, said.printed, computed):
                yield self._of_one_cell(found, expression) if expression in self.cells else found
        if said.at_most is not None and computed.amount > Decimal(str(said.at_most)):
            limit = f"at most {said.at_most}"
            told = f"{computed.text} is not {limit}"
            yield Finding(key, Kind.STATEMENT, said.place, says, limit, str(computed.amount), told)
        for other in self._others(said, expression, item):
            low = self._quantity(other)
            if computed.amount <= low.amount:
                told = f"{computed.text} is not above {low.text}"
                yield Finding(key, Kind.STATEMENT, said.place, says, f"above {low.amount}", str(computed.amount), told)

    def _of_one_cell(self, found: Finding, key: str) -> Finding:
        """A number that was copied, not computed: where it stands, and which number of that row it is, if one."""
        row, _, metric = key.rpartition("/")
        table = self._table(key.split("/")[0])
        copied = [
            other.rpartition("/")[2]
            for other, value in table.cells.items()
            if other.startswith(f"{row}/") and str(value.value) == found.printed
        ]
        told = f"{found.computed} ({self.places[key]}), printed {found.printed}"
        if copied:
            told += f", which is {' and '.join(copied)} of that row, not {metric}"
        return Finding(found.id, found.kind, found.place, found.says, found.printed, found.computed, told)

    def _others(self, said: Statement, expression: str, item: str) -> Iterator[str]:
        """What a value is said to be above; ``@...`` in place of a row means every other row of that setting."""
        own_row = expression.split("/")[1]
        for pattern in said.above:
            text = pattern.replace("{}", item)
            if "@" not in text:
                yield text
                continue
            table_id, _, rest = text.partition("/")
            setting, _, ending = rest.partition("/")
            table = self._table(table_id)
            rows = {key: key.split("/")[1] for key in table.cells if key.endswith(f"/{ending}")}
            found = [
                key
                for key, row in rows.items()
                if row != own_row
                and (setting == "@any" or (row in table.rows and f"@{table.rows[row].setting}" == setting))
            ]
            if not found:
                raise DataError(f"reports/paper/statements.yaml: '{said.id}': '{text}' is no cell.")
            yield from found

    def _printed_twice(self) -> Iterator[_Check]:
        for twice in self.paper.printed_twice:
            for item in twice.of or ("",):
                first, *others = (cell.replace("{}", item) for cell in twice.cells)
                yield from ((Kind.TWICE, tuple(self._unlike(first, other))) for other in others)

    def _unlike(self, first: str, other: str) -> Iterator[Finding]:
        one, two = self._cell(first), self._cell(other)
        if abs(one - two) > max(_last_digit(one), _last_digit(two)) / 2:
            told = f"{two} ({self.places[other]}), {one} ({self.places[first]})"
            says = f"the same number as {first}"
            yield Finding(other, Kind.TWICE, self.places[other], says, str(two), str(one), told)

    def _settings(self) -> Iterator[_Check]:
        for setting in self.paper.settings:
            for again in setting.again:
                same = _number(setting.printed) == _number(again.printed)
                told = f"{again.printed}; {setting.place}: {setting.printed}"
                found = Finding(
                    setting.id, Kind.SETTING, again.place, setting.place, again.printed, setting.printed, told
                )
                yield Kind.SETTING, () if same else (found,)

    def _quantity(self, expression: str) -> _Quantity:
        first, minus, second = expression.partition(" - ")
        if not minus:
            amount = self._cell(first)
            return _Quantity(amount, f"{amount} ({self.places[first]})")
        a, b = self._cell(first), self._cell(second)
        return _Quantity(a - b, f"{a} - {b} = {a - b}")

    def _cell(self, key: str) -> Decimal:
        if key not in self.cells:
            raise DataError(f"reports/paper: a statement, a delta or an average names '{key}', which has no number.")
        return self.cells[key]

    def _table_of(self, row: str) -> str:
        table = row.split("/")[0]
        if not any(key.startswith(f"{row}/") for key in self.cells):
            raise DataError(f"reports/paper: a statement names the row '{row}', which has no number.")
        return table

    def _table(self, table: str) -> PaperTable:
        if table not in self.paper.tables:
            raise DataError(f"reports/paper: a statement names the table '{table}', which there is not.")
        return self.paper.tables[table]


def _differs(key: str, kind: Kind, place: str, says: str, printed: float, computed: _Quantity) -> tuple[Finding, ...]:
    exact = Decimal(str(printed))
    off = abs(computed.amount - exact)
    if off <= _last_digit(exact) / 2:
        return ()
    told = f"{computed.text}, printed {exact}"
    return (Finding(key, kind, place, says, str(exact), str(computed.amount), told, off <= _last_digit(exact)),)


def _last_digit(value: Decimal) -> Decimal:
    """One unit of the last printed digit."""
    return Decimal(1).scaleb(int(value.as_tuple().exponent))


def _venues(table: PaperTable) -> Iterable[_Check]:
    """Venue of each row against the reference list; a preprint may have been published since."""
    for row in table.rows.values():
        if not row.venue or not row.reference:
            continue
        year, year_of_reference = row.venue[-4:], row.reference[-4:]
        published_since = row.reference.startswith(_PREPRINT) and not row.venue.startswith(_PREPRINT)
        if row.venue == row.reference or (published_since and year_of_reference <= year):
            yield Kind.VENUE, ()
            continue
        place = f"{table.printed_as}, row {row.name}, Venue"
        told = f"{row.venue}; reference list: {row.reference}"
        key = f"{table.table}/{row.id}"
        yield Kind.VENUE, (Finding(key, Kind.VENUE, place, "where it was published", row.venue, row.reference, told),)


def _number(text: str) -> Decimal | str:
    """``"2e-3"`` equals ``"0.002"``; what is no number equals itself."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return text
