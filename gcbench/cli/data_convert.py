"""`gcbench data import` and `gcbench data export`: to and from the folders of other tools."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gcbench.cli.scene_progress import scene_progress

IMPORT_EXAMPLE = "Example: gcbench data import pointcept /data/scannet data/scannet --in-place"
EXPORT_EXAMPLE = "Example: gcbench data export data/scannet /data/pointcept/scannet --layout pointcept"

Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes; 0 works in this one. Default: one per core.", show_default=False)
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Do all scenes that can be done, and list the broken ones at the end.")
]


class ExportLayout(str, Enum):
    """Layouts a prepared dataset can be exported to."""

    pointcept = "pointcept"


def import_pointcept(
    root: Annotated[Path, typer.Argument(help="Folder with train, val, test or Area_1 ... Area_6.", metavar="ROOT")],
    out: Annotated[Path, typer.Argument(help="Folder of the prepared dataset. Run again to go on.", metavar="OUT")],
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Copy nothing: OUT gets dataset.json, scenes are read from ROOT.")
    ] = False,
    workers: Workers = None,
    keep_going: KeepGoing = False,
) -> None:
    """Make a prepared dataset of ScanNet, ScanNet200 or S3DIS folders that were processed with Pointcept."""
    from gcbench.cli.data import _summary as summary
    from gcbench.data import pointcept_transfer

    with scene_progress("Checking scenes" if in_place else "Importing scenes") as step:
        dataset = pointcept_transfer.import_pointcept(
            root,
            out,
            in_place=in_place,
            workers=_cores() if workers is None else workers,
            on_scene=step,
            keep_going=keep_going,
        )
    summary(dataset)
    if dataset.in_place is not None:
        typer.echo(f"in place     scenes are read from {dataset.in_place}: keep that folder where it is")
    _report_failures(dict(dataset.manifest.get("failed", {})))


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of the prepared dataset.", metavar="DIR")],
    out: Annotated[Path, typer.Argument(help="Folder to write to. Run again to go on.", metavar="OUT")],
    layout: Annotated[ExportLayout, typer.Option(help="Layout to write.")],
    workers: Workers = None,
    keep_going: KeepGoing = False,
) -> None:
    """Write a prepared dataset in the layout of another tool, to train there on the same data."""
    from gcbench.data.pointcept_transfer import export_pointcept
    from gcbench.data.storage import PreparedDataset

    dataset = PreparedDataset.open(folder)
    with scene_progress("Exporting scenes") as step:
        exported = export_pointcept(
            dataset,
            out,
            workers=_cores() if workers is None else workers,
            on_scene=step,
            keep_going=keep_going,
        )
    kept = f", {len(exported.kept)} were there already" if exported.kept else ""
    typer.echo(f"{len(exported.written)} scenes written to {out}{kept} ({layout.value}, {dataset.layout}).")
    for note in exported.notes:
        typer.echo(f"note: {note}")
    _report_failures(dict(exported.failed))


def _cores() -> int:
    return os.cpu_count() or 1


def _report_failures(failed: dict[str, str]) -> None:
    if not failed:
        return
    for name, message in failed.items():
        typer.echo(f"failed: {name}: {message}", err=True)
    typer.echo(f"{len(failed)} scenes failed. Mend them and run the same command again.", err=True)
    raise typer.Exit(1)
