"""`gcbench submission`: check what ScanNet's test server will be given, and pack it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.cli.scoring_options import Ids, IdsOption, Kind

if TYPE_CHECKING:
    from rich.text import Text

    from gcbench.scoring.submission_files import Violation
    from gcbench.scoring.submissions import SubmissionReport, SubmissionRules

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Submissions to the hidden test of ScanNet and ScanNet200: check and pack.",
)

_SPLIT = "test"
_LABELS = "scannet20"
_PROTOCOL = "scannet-official"
_EXIT_VIOLATIONS = 2
_FILES_SHOWN, _LINES_SHOWN = 30, 10  # in the terminal
_CHECK_EPILOG = """Examples:

  gcbench submission check submission.zip

  gcbench submission check submission/ --labels scannet200 --data /data/scannet --json violations.json
"""
_PACK_EPILOG = """Examples:

  gcbench submission pack predictions submission.zip --kind semantic --labels scannet200

  gcbench submission pack predictions submission.zip --kind instance --labels scannet20 --ids indices
"""


_Labels = Annotated[str, typer.Option("--labels", help="Label set: scannet20 or scannet200.", metavar="NAME")]
_Scenes = Annotated[
    Path | None, typer.Option(help="Names of the test scenes, a line each. Default: ScanNet's list.", metavar="FILE")
]
_Data = Annotated[
    Path | None,
    typer.Option(
        help="Raw ScanNet or a prepared dataset: then the number of vertices is checked as well.", metavar="DIR"
    ),
]


@app.command(epilog=_CHECK_EPILOG)
def check(
    submission: Annotated[Path, typer.Argument(help="A folder or a ZIP; nothing is unpacked.")],
    labels: _Labels = _LABELS,
    kind: Annotated[Kind | None, typer.Option(help="What it is. Default: as its first file looks.")] = None,
    scenes: _Scenes = None,
    data: _Data = None,
    json: Annotated[Path | None, typer.Option(help="Write what was found.", metavar="FILE")] = None,
) -> None:
    """Check a submission: every violation with file and line. Exit code 2 if the server would refuse it."""
    from gcbench.cli.scene_progress import scene_progress
    from gcbench.runs.files import write_json
    from gcbench.scoring.submissions import check_submission

    rules = _rules(labels, kind, scenes, data)
    with scene_progress("checking", len(rules.scenes)) as step:
        report = check_submission(submission, rules, step)
    if json is not None:
        write_json(json, _record(submission, rules, report))
    _show(submission, rules, report)
    if report.errors:
        raise typer.Exit(_EXIT_VIOLATIONS)


@app.command(epilog=_PACK_EPILOG)
def pack(
    predictions: Annotated[
        Path, typer.Argument(help="Folder with a file per scene, as `gcbench evaluate` reads them.")
    ],
    out: Annotated[Path, typer.Argument(help="The ZIP to write.")],
    kind: Annotated[Kind, typer.Option(help="What it is.")],
    labels: _Labels = _LABELS,
    ids: IdsOption = Ids.raw,
    scenes: _Scenes = None,
    data: _Data = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the ZIP if it is there.")] = False,
) -> None:
    """Pack predictions into a ZIP as the server wants it. Nothing is written unless it is free of errors."""
    from gcbench.cli.scene_progress import scene_progress
    from gcbench.errors import InputError
    from gcbench.scoring.submissions import SubmissionError, pack_submission

    if out.exists() and not force:
        raise InputError(f"{out} is there already.", "Choose another name, or replace it with --force.")
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise InputError(f"{out} cannot be written: it is a folder, or its folder does not exist.")
    rules = _rules(labels, kind, scenes, data)
    try:
        with scene_progress("packing", len(rules.scenes)) as step:
            report = pack_submission(predictions, out, rules, indices=ids is Ids.indices, on_file=step)
    except SubmissionError as error:
        _show(predictions, rules, error.report)
        raise
    _show(out, rules, report)


def _rules(labels: str, kind: Kind | None, scenes: Path | None, data: Path | None) -> SubmissionRules:
    from gcbench.data.benchmark_files import read_scene_list
    from gcbench.data.labels import load_label_set
    from gcbench.data.metadata import numbered_scenes
    from gcbench.errors import DataError, InputError
    from gcbench.scoring.protocols import load_protocol
    from gcbench.scoring.submissions import SubmissionRules

    try:
        label_set = load_label_set(labels)
        names = numbered_scenes(label_set.dataset, _SPLIT) if scenes is None else read_scene_list(scenes)
        vertices = _vertices(data, names) if data is not None else {}
    except DataError as error:
        raise InputError(error.message, error.way_out) from error
    policy = load_protocol(_PROTOCOL).instance
    return SubmissionRules(
        label_set=label_set,
        scenes=names,
        kind=None if kind is None else kind.value,
        evaluated=frozenset(label_set.ids[index] for index in policy.evaluated_classes(label_set)),
        minimum_vertices=policy.minimum_vertices,
        vertices=vertices,
    )


def _vertices(data: Path, names: Sequence[str]) -> Mapping[str, int]:
    """Vertices by scene, from a prepared dataset or from the meshes of raw ScanNet.

    Raises:
        DataError: a scene is not there.
    """
    from gcbench.data.scannet import vertex_count
    from gcbench.data.storage import PreparedDataset

    if (data / "dataset.json").is_file():
        dataset = PreparedDataset.open(data)
        return {name: dataset.point_count(name) for name in names}
    return {name: vertex_count(data, name) for name in names}


def _show(source: Path, rules: SubmissionRules, report: SubmissionReport) -> None:
    """Violations by file, then the verdict."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    by_file = [(file, list(found)) for file, found in groupby(report.violations, key=lambda found: found.file)]
    table = Table.grid(Column(width=7), Column(overflow="fold"), padding=(0, 1, 0, 0))
    for file, found in by_file[:_FILES_SHOWN]:
        for row in _rows(file, found):
            table.add_row(*row)
    console.print(table)
    if len(by_file) > _FILES_SHOWN:
        console.print(f"... and {len(by_file) - _FILES_SHOWN} more files; --json lists them", style="dim")
    guessed = "" if rules.kind else " (as it looks)"
    kind = f"{report.kind} submission{guessed}, {rules.label_set.name}: {report.scenes} of {len(rules.scenes)} scenes"
    counts = f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}"
    verdict = Text("refused", style="bold red") if report.errors else Text("ready", style="bold green")
    console.print(Text.assemble(verdict, f": {source}, {kind}, {report.files} files, {counts}"), soft_wrap=True)
    if not rules.vertices:
        console.print("The number of vertices was not checked: name the scans with --data.", style="dim")


def _rows(file: str, found: Sequence[Violation]) -> Iterator[tuple[Text, Text]]:
    """What is wrong with one file."""
    from rich.text import Text

    name = _visible(file) or "the submission"
    for violation in found[:_LINES_SHOWN]:
        mark = Text("error", style="red") if violation.is_error else Text("warning", style="yellow")
        line = "" if violation.line is None else f", line {violation.line}"
        yield mark, Text.assemble((name, "bold"), f"{line}: {_visible(violation.reason)}")
    more = sum(violation.count for violation in found[_LINES_SHOWN:])
    if more:
        yield Text(), Text(f"and {more:,} more in {name}", style="dim")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _record(source: Path, rules: SubmissionRules, report: SubmissionReport) -> dict[str, object]:
    return {
        "schema_version": 1,
        "submission": str(source),
        "kind": report.kind,
        "label_set": rules.label_set.name,
        "scenes": report.scenes,
        "files": report.files,
        "errors": report.errors,
        "warnings": report.warnings,
        "vertices_checked": bool(rules.vertices),
        "violations": [
            {
                "file": found.file,
                "line": found.line,
                "reason": found.reason,
                "error": found.is_error,
                "count": found.count,
            }
            for found in report.violations
        ],
    }


def _visible(text: str) -> str:
    """Text of strangers, which must not disturb a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]
