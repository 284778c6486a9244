"""`gcbench data plan` and `gcbench data audit`: what a table needs, and whether a dataset on disk is sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.cli.scene_options import Workers, processes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gcbench.data.audit import Audit, LabelReport, Spread
    from gcbench.data.audit_findings import Finding, Level
    from gcbench.data.plan import Plan, PlannedStep

PLAN_EXAMPLES = (
    "Examples:\n\ngcbench data plan table1\n\ngcbench data plan table1 --have /data/ScanNet --json plan.json"
)
AUDIT_EXAMPLES = "Examples:\n\ngcbench data audit data/scannet\n\ngcbench data audit data/s3dis --json audit.json"
_CLASSES = 25  # rows of a histogram; the JSON has all
_SHOWN = 6  # names of a finding; the JSON has all
_BAR = 24
_COLORS = {"error": "bold red", "warning": "yellow", "note": "dim"}

Json = Annotated[
    Path | None, typer.Option("--json", help="Also write the report, complete, to this file.", metavar="FILE")
]


def plan(
    table: Annotated[
        str, typer.Argument(help="A table or figure of the paper: table1 ... table7, fig3.", metavar="TABLE")
    ],
    json_file: Json = None,
    have: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder with raw or prepared data; may be repeated. What is there is left out.", metavar="DIR"
        ),
    ] = None,
) -> None:
    """Show what a table needs: which files, how many GB, and the steps to get them."""
    from rich.console import Console

    from gcbench.data.plan import plan_table
    from gcbench.files import write_atomic

    made = plan_table(table, have or ())
    if json_file is not None:
        write_atomic(json_file, made.model_dump_json(indent=1) + "\n")
    _show_plan(Console(highlight=False), made)


def audit(
    folder: Annotated[Path, typer.Argument(help="A prepared dataset, or a raw folder to count.", metavar="DIR")],
    json_file: Json = None,
    no_hashes: Annotated[bool, typer.Option("--no-hashes", help="Do not compare hashes; the rest is checked.")] = False,
    workers: Workers = None,
) -> None:
    """Check a dataset: counts, splits, labels, normals, colours, frames, hashes. Exit code 1 if there are errors."""
    from rich.console import Console

    from gcbench.cli.scene_progress import scene_progress
    from gcbench.data.audit import audit as check
    from gcbench.files import write_atomic

    with scene_progress("Checking scenes") as step:
        report = check(folder, hashes=not no_hashes, workers=processes(workers), on_scene=step)
    if json_file is not None:
        write_atomic(json_file, report.model_dump_json(indent=1) + "\n")
    _show_audit(Console(highlight=False), report)
    if report.count("error"):
        raise typer.Exit(1)


def _show_plan(console: Console, made: Plan) -> None:
    from rich.markup import escape

    for dataset, use in made.uses.items():
        console.print(f"[bold]{made.table}[/] needs [bold]{dataset}[/]: {use}")
        console.print(f"  [dim]terms: {made.licences[dataset]}[/]")
    for line in made.present:
        console.print(f"  there already: {escape(line)}")
    _show_steps(console, made.steps)
    console.print(f"steps        {len(made.steps)}")
    console.print(f"download     {_gb(made.download_gb)}{_smaller(made)}")
    console.print(f"prepared     {_gb(made.prepared_gb)}")
    console.print(f"peak disk    {_gb(made.peak_disk_gb)}  (downloads, unpacked and prepared, all kept)")
    for item in made.alternatives:
        replaced = ", ".join(map(str, item.replaces))
        console.print(f"\n[bold]Instead of {replaced}:[/] {escape(item.title)}")
        console.print(f"  download {_gb(item.download_gb)} in all; {escape(item.consequence)}")
        _show_steps(console, item.steps)


def _show_steps(console: Console, steps: Sequence[PlannedStep]) -> None:
    """A table of the steps, and below it their commands, in one line each so that they can be copied."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Column, Table

    if not steps:
        return
    right = (Column(name, justify="right", no_wrap=True) for name in ("files", "download", "prepared"))
    table = Table(Column("", justify="right"), Column("step", overflow="fold"), *right)
    for step in steps:
        about = "~" if step.estimated else ""
        sizes = (f"{about}{_gb(size)}" if size else "" for size in (step.download_gb, step.prepared_gb))
        table.add_row(
            _label(step), escape(f"{step.dataset}: {step.title}"), f"{step.files:,}" if step.files else "", *sizes
        )
    console.print(table)
    for step in steps:
        console.print(f"{_label(step):>3}  [cyan]{escape(step.command)}[/]", soft_wrap=True)
        for text in step.sizes:
            console.print(Padding(f"[dim]{escape(text)}[/]", (0, 0, 0, 5)))
    console.print()


def _label(step: PlannedStep) -> str:
    return str(step.number or "-")


def _smaller(made: Plan) -> str:
    if made.smallest_gb >= made.download_gb:
        return ""
    return f"  (at least {_gb(made.smallest_gb)}, with the other ways below)"


def _gb(size: float) -> str:
    if size >= 100:
        return f"{size:,.0f} GB"
    return f"{size:.1f} GB" if size >= 0.1 else f"{size * 1000:.1f} MB"


def _show_audit(console: Console, report: Audit) -> None:
    from rich.markup import escape

    name = f"[bold]{escape(report.folder)}[/]  {report.layout}, {report.kind}"
    console.print(f"{name}{', synthetic rooms' if report.synthetic else ''}")
    if report.kind == "raw":
        console.print(_counts(report))
    else:
        console.print(_splits(report))
        for label_set in report.labels:
            console.print(_histogram(label_set))
        _facts(console, report)
    for finding in report.findings:
        _show_finding(console, finding)
    console.print(f"{_count(report, 'error')}, {_count(report, 'warning')}, {_count(report, 'note')}")


def _counts(report: Audit) -> Table:
    from rich.table import Column, Table

    table = Table("files", Column("found", justify="right"), Column("expected", justify="right"))
    for what, (found, expected) in report.raw.items():
        table.add_row(what, f"{found:,}", f"{expected:,}")
    return table


def _splits(report: Audit) -> Table:
    from rich.table import Column, Table

    right = (Column(name, justify="right", no_wrap=True) for name in ("scenes", "points", "frames", "instances"))
    table = Table("split", *right, Column("names", no_wrap=True), caption="frames and instances: least / middle / most")
    for split in report.splits:
        table.add_row(
            split.name,
            f"{split.scenes:,}" + ("" if split.expected is None else f" of {split.expected:,}"),
            f"{split.points:,}",
            _spread(split.frames),
            _spread(split.instances),
            split.sha256[:8] if split.scenes else "",
        )
    return table


def _histogram(labels: LabelReport) -> Table:
    from rich.markup import escape
    from rich.table import Column, Table

    right = (Column(name, justify="right") for name in ("share", "points", "scenes"))
    title = f"{labels.name}: {labels.scenes:,} scenes, {labels.unlabelled:.1%} of their points unlabelled"
    table = Table("class", "", *right, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    ranked = sorted(labels.classes, key=lambda item: -item.points)
    most = ranked[0].points if ranked else 0
    for item in ranked[:_CLASSES]:
        bar = "█" * max(round(_BAR * item.points / max(most, 1)), item.points > 0)
        table.add_row(escape(item.name), bar, f"{item.share:.2%}", f"{item.points:,}", f"{item.scenes:,}")
    rest = ranked[_CLASSES:]
    if rest:
        share, points = sum(item.share for item in rest), sum(item.points for item in rest)
        table.add_row(f"{len(rest)} more, see --json", "", f"{share:.2%}", f"{points:,}", "")
    return table


def _facts(console: Console, report: Audit) -> None:
    from rich.markup import escape

    for source, count in report.normals.items():
        console.print(f"normals      {count:,} scenes: {escape(source)}")
    zero, bent = (sum(getattr(scene, f"normals_{what}") for scene in report.scenes) for what in ("zero", "not_unit"))
    console.print(f"             of {report.points:,} normals {zero:,} are zero, {bent:,} others not of unit length")
    if report.extent is not None:
        console.print(f"longest edge {_spread(report.extent, '.3g')} m")
    if report.frame_distance is not None:
        ends = (report.frame_distance.low, report.frame_distance.median, report.frame_distance.high)
        millimetres = " / ".join(f"{1000 * value:.0f}" for value in ends)
        console.print(f"frames       {millimetres} mm from the points (two frames of each scene)")
    console.print(f"hashes       {'compared with dataset.json' if report.hashes_checked else 'not compared'}")
    console.print(f"fingerprint  {report.fingerprint}\n")


def _show_finding(console: Console, finding: Finding) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    more = len(finding.where) - _SHOWN
    where = ", ".join(finding.where[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
    text = [
        f"{finding.check}: {escape(finding.message)}",
        f"[dim]{escape(where)}[/]" if where else "",
        escape(finding.way_out),
    ]
    line = Table.grid(Column(width=7), Column(overflow="fold"), padding=(0, 1, 0, 0))
    line.add_row(f"[{_COLORS[finding.level]}]{finding.level}[/]", "\n".join(part for part in text if part))
    console.print(line)


def _spread(spread: Spread | None, form: str = ",g") -> str:
    if spread is None:
        return ""
    return " / ".join(format(value, form) for value in (spread.low, spread.median, spread.high))


def _count(report: Audit, level: Level) -> str:
    number = report.count(level)
    return f"{number} {level}{'' if number == 1 else 's'}"
