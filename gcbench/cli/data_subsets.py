"""`gcbench data subsets`: the data-efficient sets of Table 2."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gcbench.data.storage import PreparedDataset
    from gcbench.data.subsets import PointSubset, SceneSubset

EPILOG = "Example: gcbench data subsets data/scannet --tasks /data/ScanNet/tasks"


def subsets(
    folder: Annotated[Path, typer.Argument(help="Folder of the prepared dataset.", metavar="DIR")],
    tasks: Annotated[
        Path | None,
        typer.Option(help="Folder `tasks` of ScanNet's data-efficient benchmark. Without it, sets are drawn."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same sets; for drawn ones.")] = 0,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="The dataset is a part: leave listed scenes out that it lacks.")
    ] = False,
) -> None:
    """Make the data-efficient sets: few training scenes, or few labelled points per scene.

    Sets that came from the official files are kept when others are drawn.
    """
    from gcbench.cli.scene_progress import scene_progress
    from gcbench.data.storage import PreparedDataset
    from gcbench.data.subsets import draw, load_all, write_official

    dataset = PreparedDataset.open(folder)
    with scene_progress("Reading labels") as step:
        if tasks is None:
            draw(dataset, seed, on_scene=step)
        else:
            write_official(dataset, tasks, allow_missing=allow_missing, on_scene=step)
    _show(dataset, load_all(dataset))


def _show(dataset: PreparedDataset, found: list[SceneSubset | PointSubset]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("set", "scenes", "points", "labelled points", "source", title=f"{dataset.root}")
    for subset in found:
        share = subset.labels.kept / max(subset.labels.of, 1)
        source = subset.source.partition(" sha256 ")[0]
        table.add_row(
            subset.name, f"{subset.scene_count:,}", f"{_points(dataset, subset):,}", f"{100 * share:.3g} %", source
        )
    console.print(table)
    for subset in found:
        for note in subset.notes:
            console.print(f"note: {subset.name}: {note}", highlight=False, soft_wrap=True)


def _points(dataset: PreparedDataset, subset: SceneSubset | PointSubset) -> int:
    if subset.kind == "points":
        return sum(map(len, subset.points.values()))
    return sum(dataset.point_count(name) for name in subset.scenes)
