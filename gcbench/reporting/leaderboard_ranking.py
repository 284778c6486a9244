"""Ranks within one protocol: blanks last, ties shared, and what is within noise of the row before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gcbench.errors import InputError
from gcbench.reporting.leaderboard import Board, EntryColumn, LeaderboardEntry, PaperRow, paper_tables
from gcbench.reporting.paper import PaperTable

# (column id, metric id)
Key = tuple[str, str]
PAPER_PROTOCOL = "as the paper reports; protocol not stated"


@dataclass(frozen=True)
class Score:
    """One number of a row, percent.

    Attributes:
        low, high: its interval over scenes, None without one.
        std, seeds: spread over so many seeds, None without one.
        origin: its place in the paper, or its result file and fingerprint.
    """

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    seeds: int | None = None
    origin: str = ""

    @property
    def printed(self) -> str:
        """With one decimal, as the paper prints it."""
        return f"{self.value:.1f}"

    @property
    def span(self) -> tuple[float, float] | None:
        """Low and high of all that is known of its noise: the interval, the mean +- one std, or what holds both."""
        ends = [end for end in (self.low, self.high) if end is not None]
        if self.std is not None:
            ends += [self.value - self.std, self.value + self.std]
        return (min(ends), max(ends)) if ends else None


@dataclass(frozen=True)
class Row:
    """A method within one protocol; `paper` is what the paper says of it, None for a measured row."""

    name: str
    scores: Mapping[Key, Score]
    link: str | None = None
    paper: PaperRow | None = None


@dataclass(frozen=True)
class Place:
    """Where a row stands in a ranking.

    Attributes:
        rank: 1 is best, shared by ties; None without a number.
        near: its noise and that of the row before overlap.
    """

    row: Row
    rank: int | None
    near: bool


@dataclass(frozen=True)
class Group:
    """The rows of one protocol.

    Attributes:
        id: short hash of the protocol.
        protocol: how all of it was measured; empty for the paper's rows.
        sort: the ranking that the places are in; None if nothing is covered.
    """

    id: str
    title: str
    synthetic: bool
    protocol: Mapping[str, object]
    rows: tuple[Row, ...]
    sort: Key | None
    places: tuple[Place, ...] = ()

    @property
    def keys(self) -> frozenset[Key]:
        """What any row has a number for."""
        return frozenset(key for row in self.rows for key in row.scores)


def rank(rows: Iterable[Row], key: Key | None) -> tuple[Place, ...]:
    """Rows by falling score; equal at the printed precision is a tie, ranked 1, 2, 2, 4; blanks last, as they come."""
    rows = list(rows)
    scored = [row for row in rows if key in row.scores]
    scored.sort(key=lambda row: -float(row.scores[key].printed) if key else 0.0)
    places: list[Place] = []
    for number, row in enumerate(scored, start=1):
        assert key is not None, "nothing has a score under no key"
        before = places[-1] if places else None
        tie = before is not None and before.row.scores[key].printed == row.scores[key].printed
        near = before is not None and _overlap(before.row.scores[key], row.scores[key])
        places.append(Place(row, before.rank if before is not None and tie else number, near))
    return (*places, *(Place(row, None, False) for row in rows if key not in row.scores))


def groups(board: Board, entries: Sequence[LeaderboardEntry], sort: str | None = None) -> list[Group]:
    """The paper's rows, then one group per protocol, synthetic ones last; ranked within each.

    Args:
        board: the board.
        entries: its measured entries, from `load_leaderboard`.
        sort: ``"column"`` or ``"column/metric"``; by default the first column that anything in the group covers.

    Raises:
        InputError: there is no such column or metric.
    """
    wanted = _parse_sort(board, sort)
    found = [_paper_group(board)] if board.rows else []
    by_protocol: dict[str, list[tuple[LeaderboardEntry, dict[str, EntryColumn]]]] = {}
    for entry in entries:
        parts: dict[str, dict[str, EntryColumn]] = {}
        for column_id, column in entry.columns.items():
            parts.setdefault(column.measured.group(), {})[column_id] = column
        for group_id, columns in parts.items():
            by_protocol.setdefault(group_id, []).append((entry, columns))
    measured = [_measured_group(group_id, members) for group_id, members in by_protocol.items()]
    found += sorted(measured, key=lambda group: (group.synthetic, group.title, group.id))
    return [_ranked(board, group, wanted) for group in found]


def board_keys(board: Board) -> list[Key]:
    """Every column and metric, in reading order."""
    return [(column.id, metric.id) for column in board.columns for metric in board.metrics]


def describe(protocol: Mapping[str, object]) -> str:
    """A protocol in one line."""
    parts = [f"{protocol['evaluation']} v{protocol['evaluation_version']}", f"scored on {protocol['resolution']}"]
    parts.append("single pass" if protocol["inference"] == "single-pass" else "test-time augmentation")
    known = ("evaluation", "evaluation_version", "resolution", "inference")
    for key in sorted(set(protocol) - set(known)):
        value = protocol[key]
        parts.append(f"{key} {', '.join(map(str, value)) if isinstance(value, tuple | list) else value}")
    return ", ".join(parts)


def _ranked(board: Board, group: Group, wanted: Key | None) -> Group:
    covered = group.keys
    first = [key for key in board_keys(board) if key in covered]
    preferred = [key for key in first if key[1] == board.rank_by]
    sort = wanted if wanted is not None else next(iter([*preferred, *first]), None)
    return replace(group, sort=sort, places=rank(group.rows, sort))


def _paper_group(board: Board) -> Group:
    tables = paper_tables(board)
    rows = tuple(
        Row(row.name, _paper_scores(board, row, tables[row.paper.split("/")[0]]), paper=row) for row in board.rows
    )
    return Group("paper", PAPER_PROTOCOL, False, {}, rows, None)


def _paper_scores(board: Board, row: PaperRow, table: PaperTable) -> dict[Key, Score]:
    scores = {}
    for column, metric in board_keys(board):
        cell = table.cells.get(f"{row.paper}/{column}/{metric}")
        if cell is not None:
            scores[column, metric] = Score(cell.value, origin=cell.place)
    return scores


def _measured_group(group_id: str, members: Sequence[tuple[LeaderboardEntry, dict[str, EntryColumn]]]) -> Group:
    first = next(iter(members[0][1].values())).measured
    protocol = first.common_protocol()
    rows = tuple(
        Row(entry.name, _measured_scores(columns), entry.link)
        for entry, columns in sorted(members, key=lambda member: member[0].name.casefold())
    )
    return Group(group_id, describe(protocol), first.synthetic, protocol, rows, None)


def _measured_scores(columns: Mapping[str, EntryColumn]) -> dict[Key, Score]:
    scores = {}
    for column_id, column in columns.items():
        measured = column.measured
        for metric, value in measured.values.items():
            low, high = measured.intervals.get(metric, (None, None))
            spread = measured.seeds.get(metric)
            scores[column_id, metric] = Score(
                value=100.0 * value,
                low=None if low is None else 100.0 * low,
                high=None if high is None else 100.0 * high,
                std=None if spread is None else 100.0 * spread.std,
                seeds=None if spread is None else spread.n,
                origin=f"results/{column.result}, protocol {measured.fingerprint}, added {column.date}",
            )
    return scores


def _parse_sort(board: Board, sort: str | None) -> Key | None:
    if sort is None:
        return None
    column, _, metric = sort.partition("/")
    metrics = [known.id for known in board.metrics]
    if metric and metric not in metrics:
        raise InputError(f"The board '{board.id}' has no metric '{metric}'.", f"It has: {', '.join(metrics)}.")
    return board.column(column).id, metric or board.rank_by


def _overlap(first: Score, second: Score) -> bool:
    """Whether the noise of two scores overlaps; a score without any is a point, and two points say nothing."""
    if first.span is None and second.span is None:
        return False
    (low, high), (other_low, other_high) = (score.span or (score.value, score.value) for score in (first, second))
    return low <= other_high and other_low <= high
