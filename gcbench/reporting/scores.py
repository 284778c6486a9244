"""Scores of predictions for readers: a table for a terminal, and CSV. Rich comes with the call that needs it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gcbench.runs.evaluations import EvaluationRecord

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_SHORT_LIST = 40  # more classes are printed only if asked for
_FEW_SCENES = 10
_NAMED = 8  # so many classes are named in a note
_COLUMNS = {"iou": "IoU", "acc": "Acc", "ap": "AP", "ap50": "AP50", "ap25": "AP25"}


def render_scores(record: EvaluationRecord, *, every_class: bool = False) -> RenderableType:
    """Means with their intervals, groups, folds, classes and notes; percent. Nothing is printed here.

    Args:
        record: of `gcbench evaluate`.
        every_class: show the classes of a large label set too.
    """
    from rich.columns import Columns
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_title(record), style="bold")]
    parts += [Text(note, style="bold yellow") for note in _warnings(record)]
    parts.append(_means(record))
    if record.groups or record.folds:
        parts.append(_parts(record))
    if every_class or len(record.classes) <= _SHORT_LIST:
        names = list(record.classes)
        rows = -(-len(names) // (2 if len(names) <= _SHORT_LIST else 4))
        pieces = [names[start : start + rows] for start in range(0, len(names), rows)]
        parts.append(Columns([_classes(record, piece) for piece in pieces], padding=(0, 2)))
    else:
        parts.append(Text(f"{len(record.classes)} classes: --classes prints them, --json and --csv write them."))
    parts += [Text(note, style="dim") for note in _notes(record)]
    return Group(*parts)


def scores_csv(record: EvaluationRecord) -> str:
    """Scores as CSV: `scope` (all, group, fold, class), `name`, then a column per score, fractions, blank for NaN."""
    scores = list(next(iter(record.classes.values())))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["scope", "name", *record.metrics, *scores])
    blank = [""] * len(scores)
    writer.writerow(["all", "all", *_plain(record.metrics.values()), *blank])
    for fold, metrics in record.folds.items():
        writer.writerow(["fold", fold, *_plain(metrics.values()), *blank])
    if record.fold_mean:
        writer.writerow(["fold", "mean of the folds", *_plain(record.fold_mean.values()), *blank])
    blank = [""] * len(record.metrics)
    for group, values in record.groups.items():
        of_group = values if isinstance(values, Mapping) else {scores[0]: values}
        writer.writerow(["group", group, *blank, *_plain(of_group.get(score, math.nan) for score in scores)])
    for name, values in record.classes.items():
        writer.writerow(["class", name, *blank, *_plain(values.values())])
    return stream.getvalue()


def _title(record: EvaluationRecord) -> str:
    kind = record.kind.removeprefix("evaluate-")
    scenes = record.runs[0].scenes if record.runs else record.scenes
    seeds = f", {len(record.runs)} runs" if record.runs else ""
    where = f" {record.split}" if record.split else ""
    return (
        f"{kind.capitalize()} segmentation, {record.label_set}{where}, {len(scenes)} scenes{seeds}, "
        f"{record.protocol.name} v{record.protocol.version}"
    )


def _warnings(record: EvaluationRecord) -> list[str]:
    found = []
    if record.synthetic:
        found.append("The ground truth are synthetic rooms: not comparable with any paper.")
    if record.missing:
        found.append(f"{len(record.missing)} scenes without a prediction were left out: this is not the whole split.")
    return found


def _notes(record: EvaluationRecord) -> list[str]:
    found = []
    if record.undefined:
        short = len(record.undefined) <= _NAMED
        which = ", ".join(record.undefined) if short else f"{len(record.undefined)} classes, listed by --json"
        found.append(f"Without a value, and not in the means: {which}.")
    if record.intervals is not None:
        found.append(
            f"[low, high]: {record.intervals.level:.0%} interval over scenes, {record.intervals.draws} draws, "
            f"seed {record.intervals.seed}."
        )
        if len(record.runs[0].scenes if record.runs else record.scenes) < _FEW_SCENES:
            found.append("So few scenes say little about others: the interval is a rough guess.")
    if record.seeds is not None:
        found.append("±: sample standard deviation over the runs; it is no part of the interval over scenes.")
    return found


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _means(record: EvaluationRecord) -> Table:
    headers = ["percent", "over scenes" if record.intervals else "", "over runs" if record.seeds else ""]
    table = _table("", *[header for header in headers if header])
    for name, value in record.metrics.items():
        row = [_percent(value)]
        if record.intervals is not None:
            low, high = record.intervals.scenes[name]
            row.append(f"[{_percent(low)}, {_percent(high)}]" if not math.isnan(low) else "")
        if record.seeds is not None:
            row.append(f"± {_percent(record.seeds[name].std)}")
        table.add_row(name, *row)
    return table


def _parts(record: EvaluationRecord) -> Table:
    """Groups of classes, or folds and their mean."""
    if record.folds:
        table = _table("fold", *record.metrics)
        for fold, metrics in record.folds.items():
            table.add_row(fold, *map(_percent, metrics.values()))
        table.add_section()
        table.add_row("mean of the folds", *map(_percent, record.fold_mean.values()))
        return table
    of_groups = {
        name: values if isinstance(values, Mapping) else {"iou": values} for name, values in record.groups.items()
    }
    scores = list(next(iter(of_groups.values())))
    table = _table("classes", *(f"m{_COLUMNS[score]}" for score in scores))
    for name, values in of_groups.items():
        table.add_row(name, *(_percent(values[score]) for score in scores))
    return table


def _classes(record: EvaluationRecord, names: Sequence[str]) -> Table:
    scores = list(record.classes[names[0]])
    table = _table("class", *(_COLUMNS[score] for score in scores))
    for name in names:
        table.add_row(name, *(_percent(record.classes[name][score]) for score in scores))
    return table


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _plain(values: Any) -> list[str]:
    return ["" if math.isnan(value) else repr(float(value)) for value in values]
