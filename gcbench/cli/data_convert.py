"""`gcbench data import` and `gcbench data export`: to and from the folders of other tools."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gcbench.cli.dataset_summary import print_summary
from gcbench.cli.scene_options import KeepGoing, Workers, processes
from gcbench.cli.scene_progress import scene_progress
from gcbench.errors import DataError

IMPORT_EXAMPLE = "Example: gcbench data import pointcept /data/scannet data/scannet --in-place"
EXPORT_EXAMPLE = "Example: gcbench data export data/scannet /data/pointcept/scannet --layout pointcept"


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
    from gcbench.data import pointcept_transfer

    with scene_progress("Checking scenes" if in_place else "Importing scenes") as step:
        dataset = pointcept_transfer.import_pointcept(
            root,
            out,
            in_place=in_place,
            workers=processes(workers),
            on_scene=step,
            keep_going=keep_going,
        )
    print_summary(dataset)


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
            workers=processes(workers),
            on_scene=step,
            keep_going=keep_going,
        )
    kept = f", {len(exported.kept)} were there already" if exported.kept else ""
    typer.echo(f"{len(exported.written)} scenes written to {out}{kept} ({layout.value}, {dataset.layout}).")
    for note in exported.notes:
        typer.echo(f"note: {note}")
    if exported.failed:
        from gcbench.data.scene_jobs import listing

        raise DataError(
            f"{len(exported.failed)} scenes could not be exported:\n{listing(exported.failed)}\n",
            "Mend them and run the same command again: the others are kept.",
        )
