"""Leaderboards: what a board and an entry are, and how they are read from YAML.

A board is `<folder>/<board>.yaml`; its measured entries are `<folder>/<board>/<slug>.yaml`, their result files
`<folder>/<board>/results/<digits>.json`. The folder that comes with gcbench is `evaluation/leaderboard`. The paper's
rows are references to `reports/paper`; no number of the paper stands in a board.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gcbench.errors import DataError, InputError
from gcbench.recipe.loader import content_hash
from gcbench.recipe.yaml_files import read_yaml
from gcbench.reporting.paper import PaperTable, load_paper_table
from gcbench.resources import resource_path

RESULTS_FOLDER = "results"
# What a protocol says of one column rather than of how things are measured.
COLUMN_KEYS = ("label_set", "split", "split_hash")
_ID = r"^[a-z0-9][a-z0-9_-]*$"


def _plain_text(text: str) -> str:
    """Names are shown in terminals and pages: no control characters, no invisible ones."""
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError("must be visible text without control characters, or spaces at its ends")
    return text


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable() or " " in text:
        raise ValueError("must be a http:// or https:// address")
    return text


Identifier = Annotated[str, Field(pattern=_ID, max_length=60)]
PlainText = Annotated[str, Field(max_length=200), AfterValidator(_plain_text)]
Name = Annotated[str, Field(max_length=80), AfterValidator(_plain_text)]
ProtocolValue = PlainText | int | tuple[PlainText, ...] | None
Link = Annotated[str, Field(max_length=500), AfterValidator(_web_address)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Setting = Literal["scratch", "self-supervised", "supervised"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Metric(_Strict):
    """A metric of a result (`id`, e.g. ``"mAP50"``) and its heading (`title`, e.g. ``"AP50"``)."""

    id: str
    title: str


class Column(_Strict):
    """A column.

    Attributes:
        label_set: that a result must have been scored with.
        data: the dataset whose facts say how many scenes the splits have; None where nothing is known.
        splits: that are scored together, e.g. ``("val",)`` or six areas.
    """

    id: Identifier
    title: str
    label_set: str
    data: Literal["scannet", "s3dis"] | None = None
    splits: tuple[str, ...]

    def split_names(self) -> tuple[str, ...]:
        """The names that results give to these splits."""
        return ("+".join(self.splits), f"{len(self.splits)} folds") if len(self.splits) > 1 else self.splits


class PaperRow(_Strict):
    """A row of the paper: which one (``"table3/gs3"``), and what the paper prints beside the numbers.

    Attributes:
        setting: trained from scratch, or after self-supervised or supervised pre-training.
        venue, type, datasets: of the method and its pre-training; empty where the paper prints none.
    """

    paper: Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
    name: Name
    setting: Setting
    venue: str = ""
    type: str = ""
    datasets: str = ""


class Board(_Strict):
    """What a leaderboard compares.

    Attributes:
        kind: of the results that it takes.
        note: what an entry claims, in plain words.
        rank_by: the metric of a column that a table is sorted by unless told otherwise.
        rows: the paper's.
    """

    schema_version: Literal[1]
    id: Identifier
    title: str
    kind: Literal["semantic", "instance"]
    note: str
    metrics: tuple[Metric, ...]
    rank_by: str
    columns: tuple[Column, ...]
    rows: tuple[PaperRow, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Board:
        for part in (self.metrics, self.columns):
            ids = [item.id for item in part]
            if not ids or len(set(ids)) < len(ids):
                raise ValueError("metrics and columns: at least one of each, and no id twice")
        if self.rank_by not in [metric.id for metric in self.metrics]:
            raise ValueError(f"rank_by '{self.rank_by}' is none of the metrics")
        if len({row.paper for row in self.rows}) < len(self.rows):
            raise ValueError("a row of the paper stands twice")
        return self

    def column(self, column_id: str) -> Column:
        """The column with that id.

        Raises:
            InputError: there is none.
        """
        for column in self.columns:
            if column.id == column_id:
                return column
        known = ", ".join(column.id for column in self.columns)
        raise InputError(f"The board '{self.id}' has no column '{column_id}'.", f"It has: {known}.")


class Spread(_Strict):
    """Mean and sample standard deviation over `n` seeds, fractions."""

    mean: Fraction
    std: Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
    n: Annotated[int, Field(ge=2)]


class Measurement(_Strict):
    """What a board keeps of a result file: everything here can be read from the file again.

    Attributes:
        values: metric -> fraction, unrounded.
        intervals: metric -> low and high, over scenes, where the result has them; `level` is their share.
        seeds: metric -> spread, where the result is of several seeds.
        protocol: how it was measured; `COLUMN_KEYS` in it are the column's, the rest decides what is ranked together.
        fingerprint: of the protocol, as the result has it.
    """

    values: Mapping[str, Fraction]
    intervals: Mapping[str, tuple[Fraction, Fraction]] = {}
    level: float | None = None
    seeds: Mapping[str, Spread] = {}
    protocol: Mapping[Identifier, ProtocolValue]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    synthetic: bool

    def common_protocol(self) -> dict[str, ProtocolValue]:
        """The protocol without what is the column's."""
        return {key: value for key, value in self.protocol.items() if key not in COLUMN_KEYS}

    def group(self) -> str:
        """Short hash of what must be equal for two numbers to be ranked together."""
        return content_hash([self.common_protocol(), self.synthetic])


class EntryColumn(_Strict):
    """One column of an entry: the measurement, the file that it can be read from again, and when it was added."""

    measured: Measurement
    result: Annotated[str, Field(pattern=r"^[0-9a-f]{12}\.json$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    date: date


class LeaderboardEntry(_Strict):
    """A measured method; `columns` by column id."""

    schema_version: Literal[1] = 1
    name: Name
    link: Link | None = None
    source: Literal["measured"] = "measured"
    columns: Mapping[Identifier, EntryColumn]


_Model = TypeVar("_Model", bound=BaseModel)


def board_files(folder: Path | None = None) -> dict[str, Path]:
    """Board id -> file: those that come with gcbench, and those of `folder`, which win.

    Raises:
        InputError: there is no such folder.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"There is no folder '{folder}'.", "`gcbench leaderboard add` makes one.")
    folders = [packaged_folder(), *([folder] if folder is not None else [])]
    return {path.stem: path for place in folders for path in sorted(place.glob("*.yaml"))}


def packaged_folder() -> Path:
    """The folder of boards that comes with gcbench."""
    return resource_path("evaluation", "leaderboard")


def load_board(board_id: str, folder: Path | None = None) -> Board:
    """A board by id.

    Raises:
        InputError: there is none, or its file has an unknown key or a wrong value.
    """
    files = board_files(folder)
    if board_id not in files:
        raise InputError(f"There is no leaderboard '{board_id}'.", f"Known: {', '.join(files)}.")
    path = files[board_id]
    board = _read(path, Board)
    if board.id != board_id:
        raise InputError(f"{path}: key 'id' is '{board.id}', but the file is called '{path.name}'.")
    return board


def entry_folder(board_id: str, folder: Path | None = None) -> Path:
    """Where the entries of a board lie; it need not be there."""
    return (folder if folder is not None else packaged_folder()) / board_id


def read_entries(board: Board, folder: Path | None = None) -> dict[Path, LeaderboardEntry]:
    """Entry files of a board and what they say; their result files are not looked at.

    Raises:
        InputError: a file has an unknown key, a wrong value or a column that the board lacks, or two have one name.
    """
    entries: dict[Path, LeaderboardEntry] = {}
    names: dict[str, Path] = {}
    for path in sorted(entry_folder(board.id, folder).glob("*.yaml")):
        entry = _read(path, LeaderboardEntry)
        for column in entry.columns:
            if column not in [known.id for known in board.columns]:
                raise InputError(f"{path}: the board '{board.id}' has no column '{column}'.")
        if entry.name in names:
            raise InputError(f"{path} and {names[entry.name]} have the same name, '{entry.name}'.")
        names[entry.name] = path
        entries[path] = entry
    return entries


def paper_tables(board: Board) -> dict[str, PaperTable]:
    """The paper's tables that a board's rows stand in, by id.

    Raises:
        DataError: a row has no number in them under any column of the board.
    """
    tables = {table: load_paper_table(table) for table in dict.fromkeys(row.paper.split("/")[0] for row in board.rows)}
    for row in board.rows:
        if not any(key in tables[row.paper.split("/")[0]].cells for key in _cell_ids(board, row)):
            raise DataError(f"The board '{board.id}' has the row '{row.paper}', of which the paper has no number.")
    return tables


def _cell_ids(board: Board, row: PaperRow) -> Iterable[str]:
    return (f"{row.paper}/{column.id}/{metric.id}" for column in board.columns for metric in board.metrics)


def _read(path: Path, model: type[_Model]) -> _Model:
    document = read_yaml(path)
    try:
        return model.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: key '{key}': {first['msg']}.") from error
    except TypeError as error:
        raise InputError(f"{path}: a key is not text: {error}.") from error
