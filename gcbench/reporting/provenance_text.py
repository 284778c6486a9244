"""Where a number comes from, as labelled lines: the same for the HTML page and the terminal. Imports quickly."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gcbench.reporting.compare import measured_values
from gcbench.reporting.comparison import Cell, Entry
from gcbench.reporting.verdicts import metric_unit
from gcbench.reporting.wording import duration, exact, interval, measured, number, titled

if TYPE_CHECKING:
    from gcbench.runs.results import CellContent, PretrainResult, TableResult


@dataclass(frozen=True)
class Fact:
    """One line of a provenance."""

    label: str
    text: str


def heading(cell: Cell, entry: Entry) -> str:
    """Of an entry, e.g. ``"GaussianCross, frozen on ScanNet"``."""
    return f"{cell.row.title} · {cell.column.title}" + (f" · protocol {entry.label}" if entry.label else "")


def entry_facts(cell: Cell, entry: Entry) -> list[Fact]:
    """What is known of all of an entry's results, most important first."""
    facts = [
        Fact("Not comparable with the paper", entry.why_not_comparable) if entry.why_not_comparable else None,
        *(Fact("Mind", warning) for warning in entry.warnings),
        *_numbers(cell, entry),
    ]
    if entry.parts:
        facts.append(Fact("Computed", "the mean of its columns, seed by seed; each has its own provenance"))
    else:
        facts += [*_origin(entry.results[0]), *_by_seed(entry)]
    return [fact for fact in facts if fact is not None]


def class_means(entry: Entry) -> dict[str, dict[str, float]]:
    """Class -> metric -> percent, mean over the entry's seeds; NaN where undefined. Empty for what has no classes."""
    if entry.parts or not entry.results:
        return {}
    tables = [result.class_scores() for result in entry.results if result.kind != "pretrain"]
    if not tables:
        return {}
    return {
        name: {metric: 100.0 * statistics.fmean(table[name][metric] for table in tables) for metric in scores}
        for name, scores in tables[0].items()
    }


@dataclass(frozen=True)
class SeedLine:
    """One seed: its numbers by metric, what it cost, when it began and which weights it made."""

    seed: int
    values: dict[str, str]
    time: str
    memory: str
    started: str
    weights: str


def seed_lines(cell: Cell, entry: Entry) -> list[SeedLine]:
    """A line per seed; none for a mean."""
    if entry.parts:
        return []
    return [_seed_line(cell, seed, result) for seed, result in zip(entry.seeds, entry.results, strict=True)]


def _seed_line(cell: Cell, seed: int, result: CellContent) -> SeedLine:
    origin, values = result.provenance, measured_values(result)
    shown = [*cell.metrics, *(name for name in values if name not in cell.metrics)]
    return SeedLine(
        seed=seed,
        values={titled(name): exact(metric_unit(name).scale * values[name], metric_unit(name)) for name in shown},
        time=duration(origin.wall_seconds),
        memory=f"{origin.peak_memory_mb:.0f} MB",
        started=f"{origin.started:%Y-%m-%d %H:%M}",
        weights=(origin.weights_hash or "–")[:12],
    )


def _numbers(cell: Cell, entry: Entry) -> Iterator[Fact]:
    for metric, value in entry.metrics.items():
        unit = metric_unit(metric)
        scenes = f", over scenes {interval(value, unit)}" if value.interval is not None else ""
        why = f" ({value.why})" if value.why and not entry.why_not_comparable else ""
        yield Fact(titled(metric), f"{measured(value, unit)}{scenes}; {value.verdict.value}{why}")
    for metric, printed in cell.paper.items():
        yield Fact(f"Paper, {titled(metric)}", f"{number(printed.value, metric_unit(metric))} ({printed.place})")


def _origin(result: CellContent) -> Iterator[Fact]:
    origin = result.provenance
    preset = f", preset {origin.preset}" if origin.preset else ""
    yield Fact("Recipe", f"{origin.recipe} [{origin.recipe_hash}]{preset}")
    where = "synthetic rooms" if origin.synthetic else "real data"
    scenes = f", {len(result.scenes)} scenes scored" if result.kind != "pretrain" else ""
    yield Fact("Data", f"{where} [{origin.data_fingerprint[:16]}]{scenes}")
    if result.kind != "pretrain":
        ignored = ", ".join(result.protocol.ignored) or "nothing"
        yield Fact("Protocol", f"{result.protocol.describe()}, ignored: {ignored} [{result.protocol.fingerprint()}]")
    commit = f", commit {origin.git_commit[:12]}" if origin.git_commit else ""
    changes = " with local changes" if origin.git_dirty else ""
    yield Fact("Code", f"gcbench {origin.versions.get('gcbench', '?')}{commit}{changes}")
    yield Fact("Versions", _joined(origin.versions, " "))
    yield Fact("Hardware", _joined({key.replace("_", " "): text for key, text in origin.hardware.items()}, ": "))


def _by_seed(entry: Entry) -> Iterator[Fact]:
    for seed, result in zip(entry.seeds, entry.results, strict=True):
        facts = _pretraining_facts(result) if result.kind == "pretrain" else _training_facts(result)
        for fact in facts:
            yield Fact(f"{fact.label}, seed {seed}", fact.text)


def _pretraining_facts(result: PretrainResult) -> Iterator[Fact]:
    yield Fact("Pre-training", f"{result.name}, {result.steps:,} steps, {result.processes} process(es)")
    yield Fact("Losses", _joined({name: f"{value:.4g}" for name, value in result.losses.items()}, " "))
    if result.teacher is not None:
        yield Fact("Teacher", _joined(result.teacher, ": "))
    if result.warnings:
        yield Fact("Scenes with warnings", _joined(result.warnings, ": "))
    for note in result.notes:
        yield Fact("Note", note)


def _training_facts(result: TableResult) -> Iterator[Fact]:
    if result.fold_mean:
        yield Fact("Mean of the folds", f"{_scores(result.fold_mean)} (the table sums the counts first)")
    if result.folds:
        yield Fact("Folds", "; ".join(f"{name}: {_scores(metrics)}" for name, metrics in result.folds.items()))
    groups = result.group_scores()
    if groups:
        yield Fact("Groups", "; ".join(f"{name}: {_scores(scores)}" for name, scores in groups.items()))
    if result.budget is not None:
        yield Fact("Budget", result.budget.describe())
    if result.checkpoints:
        kept = [f"{name}: step {one.step:,}, {_scores(one.metrics)}" for name, one in result.checkpoints.items()]
        yield Fact("Checkpoints", f"{'; '.join(kept)} (single pass)")
    if result.encoder is not None:
        proof = result.encoder
        yield Fact(
            "Frozen encoder",
            f"parameters {proof.parameters_before} before, {proof.parameters_after} after training; "
            f"buffers {proof.buffers_before}, {proof.buffers_after}",
        )
    for note in result.notes:
        yield Fact("Note", note)


def _scores(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {exact(100 * value, metric_unit(name))}" for name, value in metrics.items())


def _joined(values: dict[str, Any], between: str) -> str:
    return ", ".join(f"{key}{between}{value}" for key, value in values.items())
