"""Measured entries of a leaderboard: what a result file says, whether it fits, adding it, checking it again."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from gcbench.errors import DataError, InputError, RunError
from gcbench.files import write_atomic
from gcbench.reporting.leaderboard import (
    RESULTS_FOLDER,
    Board,
    Column,
    EntryColumn,
    LeaderboardEntry,
    Measurement,
    entry_folder,
    load_board,
    read_entries,
)
from gcbench.reporting.recomputed import check_metrics
from gcbench.runs.evaluations import EvaluationRecord, load_evaluation
from gcbench.runs.results import InstanceResult, SemanticResult, load_result

Resolution = Literal["voxels", "points"]
Inference = Literal["single-pass", "tta"]
_KINDS = {"semantic": ("semantic", "evaluate-semantic"), "instance": ("instance", "evaluate-instance")}


@dataclass(frozen=True)
class Stated:
    """What is said about a result beside its file: `gcbench evaluate` does not know it. None where nothing is said."""

    resolution: Resolution | None = None
    inference: Inference | None = None


def load_leaderboard(board_id: str, folder: Path | None = None) -> tuple[Board, list[LeaderboardEntry]]:
    """A board and its measured entries, every one checked against its result file.

    Raises:
        InputError: a broken file, or numbers in one ranking that are of different scenes.
        DataError: a result file is missing, was changed, or says something else than its entry.
    """
    board = load_board(board_id, folder)
    entries = read_entries(board, folder)
    for path, entry in entries.items():
        for column_id, column in entry.columns.items():
            _check_again(board, board.column(column_id), path, column)
    _check_same_scenes(entries)
    return board, list(entries.values())


def add_result(
    board_id: str,
    column_id: str,
    result: Path,
    *,
    name: str,
    link: str | None = None,
    stated: Stated = Stated(),
    folder: Path | None = None,
    replace: bool = False,
) -> Path:
    """Put a result on a board and return the entry's file. Nothing is written unless everything fits.

    Args:
        result: a file of `gcbench evaluate --json`, or the result.json of a run.
        name: of the method; a second column under the same name joins the same entry.
        link: a web address about the method; None keeps the one that is there.
        stated: what the file does not know.
        folder: of the boards; it is made if need be. None is the one that comes with gcbench.
        replace: put the result in the place of one that is there.

    Raises:
        InputError: the result does not fit the board, or there is one already.
        RunError: the file is not a result.
    """
    board = load_board(board_id, folder if folder is not None and folder.is_dir() else None)
    content = _content(result)
    measured = measure(board, board.column(column_id), result, stated)
    sha256 = hashlib.sha256(content).hexdigest()
    today = datetime.now(timezone.utc).date()
    added = EntryColumn(measured=measured, result=f"{sha256[:12]}.json", sha256=sha256, date=today)
    place = entry_folder(board.id, folder)
    path = place / f"{slug(name)}.yaml"
    entries = read_entries(board, folder) if place.is_dir() else {}
    old = entries.get(path)
    if old is not None and old.name != name:
        raise InputError(f"{path} is the entry of '{old.name}'.", f"Choose a name that differs more than '{name}'.")
    if old is not None and column_id in old.columns and not replace:
        raise InputError(
            f"'{name}' has a result in the column '{column_id}' already: {path}.",
            "Replace it with --replace, or choose another --name.",
        )
    columns = {**(old.columns if old is not None else {}), column_id: added}
    entry = _entry(name, link if link is not None or old is None else old.link, columns)
    entries[path] = entry
    _check_same_scenes(entries)
    write_atomic(place / RESULTS_FOLDER / added.result, content)
    write_atomic(path, _yaml(board, entry))
    if old is not None and column_id in old.columns:
        _remove_unused(place, old.columns[column_id].result, entries)
    return path


def measure(board: Board, column: Column, path: Path, stated: Stated) -> Measurement:
    """What a result file says for a column of a board.

    Raises:
        InputError: it does not fit: another kind, label set, split or number of scenes, an undefined metric, scenes
            without a prediction, a single fold, something about its protocol that is not known, or metrics that its
            scenes do not give.
        RunError: the file is not a result.
    """
    record = _load(board, path)
    if record.label_set != column.label_set:
        raise InputError(
            f"{path}: label set {record.label_set!r}; the column '{column.id}' is of '{column.label_set}'.",
            "Choose the column of that label set.",
        )
    if record.split is not None and record.split not in column.split_names():
        raise InputError(
            f"{path}: split {record.split!r}; the column '{column.id}' is of '{column.split_names()[0]}'.",
            "Choose the column of that split.",
        )
    _check_scene_count(column, path, record)
    wanted = [metric.id for metric in board.metrics]
    absent = [metric for metric in wanted if not math.isfinite(record.metrics.get(metric, math.nan))]
    if absent:
        raise InputError(f"{path}: the metric '{absent[0]}' is missing or undefined.", "An entry needs a number.")
    protocol = _with_stated(path, record.protocol, stated)
    try:
        measured = Measurement.model_validate(
            {
                "values": {metric: record.metrics[metric] for metric in wanted},
                "intervals": {metric: ends for metric, ends in record.intervals.items() if metric in wanted},
                "level": record.level,
                "seeds": {metric: spread for metric, spread in record.seeds.items() if metric in wanted},
                "protocol": protocol,
                "fingerprint": record.fingerprint,
                "synthetic": record.synthetic,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: '{key}': {first['msg']}.") from error
    if record.evaluation is not None:
        check_metrics(path, record.evaluation)
    return measured


def slug(name: str) -> str:
    """A method's name as a file name: ``"My method (v2)"`` is ``"my-method-v2"``; without Latin letters a hash."""
    latin = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", latin).strip("-")[:60].strip("-")
    return words or f"entry-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class _Record:
    """The part of both kinds of result files that a board reads."""

    label_set: str
    split: str | None
    scenes: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    level: float | None
    seeds: Mapping[str, Mapping[str, float]]
    protocol: Mapping[str, Any]
    fingerprint: str
    synthetic: bool
    evaluation: EvaluationRecord | None = None


def _load(board: Board, path: Path) -> _Record:
    try:
        content = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {error}.") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind not in _KINDS[board.kind]:
        raise InputError(
            f"{path}: key 'kind' is {kind!r}; the board '{board.id}' takes {' and '.join(_KINDS[board.kind])}.",
            f"Give a file that `gcbench evaluate {board.kind} --json` wrote.",
        )
    if kind == board.kind:
        result = load_result(path)
        assert isinstance(result, SemanticResult | InstanceResult), "its kind says so"
        return _of_run(path, result)
    return _of_evaluation(path, load_evaluation(path))


def _of_run(path: Path, result: SemanticResult | InstanceResult) -> _Record:
    if result.fold is not None:
        raise InputError(f"{path} is one fold, {result.fold!r}.", "Give the result of all folds together.")
    return _Record(
        label_set=result.protocol.label_set,
        split=result.protocol.split,
        scenes=len(result.scenes),
        metrics=result.metrics,
        intervals={},
        level=None,
        seeds={},
        protocol=result.protocol.model_dump(),
        fingerprint=result.protocol.fingerprint(),
        synthetic=result.provenance.synthetic,
    )


def _of_evaluation(path: Path, record: EvaluationRecord) -> _Record:
    if record.missing:
        raise InputError(
            f"{path}: {len(record.missing)} scenes have no prediction, e.g. {record.missing[0]!r}.",
            "Predict every scene of the split and evaluate again.",
        )
    intervals = record.intervals
    return _Record(
        label_set=record.label_set,
        split=record.split,
        scenes=min((len(run.scenes) for run in record.runs), default=len(record.scenes)),
        metrics=record.metrics,
        intervals=intervals.scenes if intervals is not None else {},
        level=intervals.level if intervals is not None else None,
        seeds={metric: spread.model_dump() for metric, spread in (record.seeds or {}).items()},
        protocol={
            "label_set": record.label_set,
            "split": record.split,
            "split_hash": record.split_hash,
            "evaluation": record.protocol.name,
            "evaluation_version": record.protocol.version,
        },
        fingerprint=record.protocol.fingerprint,
        synthetic=record.synthetic,
        evaluation=record,
    )


def _with_stated(path: Path, protocol: Mapping[str, Any], stated: Stated) -> dict[str, Any]:
    """The protocol with what was said; a file that knows better is believed, and an option against it refused."""
    whole = dict(protocol)
    for key, value in (("resolution", stated.resolution), ("inference", stated.inference)):
        if whole.get(key, value) != value and value is not None:
            raise InputError(f"{path}: {key} is {whole[key]!r}, not '{value}'.", f"Leave out --{key}.")
        if key not in whole and value is None:
            raise InputError(
                f"{path} does not say its {key}.",
                "Say it: --resolution voxels or points, --inference single-pass or tta (test-time augmentation).",
            )
        whole.setdefault(key, value)
    return whole


def _check_scene_count(column: Column, path: Path, record: _Record) -> None:
    """A part of a split is not the split. Synthetic rooms are as many as one likes."""
    expected = _scene_counts(column)
    if expected and not record.synthetic and record.scenes not in expected:
        raise InputError(
            f"{path}: {record.scenes} scenes; the column '{column.id}' has {' or '.join(map(str, sorted(expected)))}.",
            "Evaluate on the whole split.",
        )


def _scene_counts(column: Column) -> set[int]:
    """How many scenes the column's splits may have; empty where that is not known."""
    from gcbench.data.metadata import expected_scenes
    from gcbench.data.s3dis_facts import s3dis_facts

    if column.data == "scannet":
        counts = expected_scenes(column.data)
        return {sum(counts[split] for split in column.splits)}
    if column.data == "s3dis":
        rooms = s3dis_facts().rooms
        total = sum(len(rooms.names(area)) for area in column.splits)
        absent = sum(room.split("/")[0] in column.splits for room in rooms.often_absent)
        return {total, total - absent}
    return set()


def _check_again(board: Board, column: Column, path: Path, entry: EntryColumn) -> None:
    """The result file is there, is the one that was added, and says what the entry says."""
    file = path.parent / RESULTS_FOLDER / entry.result
    if not file.is_file():
        raise DataError(f"{path}: the result file of the column '{column.id}' is missing: {file}.", "Add it again.")
    if hashlib.sha256(_content(file)).hexdigest() != entry.sha256 or not entry.sha256.startswith(file.stem):
        raise DataError(
            f"{file} is not the file that was added: its SHA-256 is not the one in {path}.",
            "Restore it, or add the result again with --replace.",
        )
    said = entry.measured.protocol
    stated = Stated(said.get("resolution"), said.get("inference"))  # type: ignore[arg-type]  # compared below
    found, there = measure(board, column, file, stated).model_dump(), entry.measured.model_dump()
    for key in found:
        if found[key] != there[key]:
            raise DataError(
                f"{path}: column '{column.id}': '{key}' is {there[key]}, but {file} says {found[key]}.",
                "Add the result again with --replace.",
            )


def _check_same_scenes(entries: Mapping[Path, LeaderboardEntry]) -> None:
    """Numbers that are ranked together are of the same scenes."""
    first: dict[tuple[str, str], tuple[Path, Any]] = {}
    for path, entry in entries.items():
        for column_id, column in entry.columns.items():
            scenes = column.measured.protocol.get("split_hash")
            other, known = first.setdefault((column.measured.group(), column_id), (path, scenes))
            if scenes != known:
                raise InputError(
                    f"{path} and {other}: the results in the column '{column_id}' are of different scenes.",
                    "Score both on the same scenes, under the same names, or keep one on a board of its own (--board).",
                )


def _entry(name: str, link: str | None, columns: Mapping[str, EntryColumn]) -> LeaderboardEntry:
    try:
        return LeaderboardEntry(name=name, link=link, columns=columns)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{first['loc'][0]} {first['input']!r}: {first['msg']}.") from error


def _yaml(board: Board, entry: LeaderboardEntry) -> str:
    order = [column.id for column in board.columns]
    content = json.loads(entry.model_dump_json(exclude_none=False))
    content["columns"] = {key: content["columns"][key] for key in sorted(content["columns"], key=order.index)}
    head = "# Written by `gcbench leaderboard add`; the numbers are fractions, and checked against the result files.\n"
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _remove_unused(place: Path, result: str, entries: Mapping[Path, LeaderboardEntry]) -> None:
    """Delete a result file that no entry names any more."""
    named = {column.result for entry in entries.values() for column in entry.columns.values()}
    if result not in named:
        (place / RESULTS_FOLDER / result).unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Give the JSON file of a result.") from error
