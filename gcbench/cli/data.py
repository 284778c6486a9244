"""`gcbench data`: prepare raw datasets, generate synthetic rooms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import InputError

if TYPE_CHECKING:
    from gcbench.data.storage import PreparedDataset

app = typer.Typer(help="Prepare datasets and generate synthetic rooms.", no_args_is_help=True)
prepare_app = typer.Typer(help="Turn a raw dataset into a prepared one.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")

Raw = Annotated[Path, typer.Argument(help="Folder with the raw dataset.", metavar="RAW")]
Out = Annotated[Path, typer.Argument(help="Folder of the prepared dataset. Run again to go on.", metavar="OUT")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes; 0 works in this one. Default: one per core.", show_default=False)
]


class Layout(str, Enum):
    """Raw layouts that rooms can be written in."""

    scannet = "scannet"
    s3dis = "s3dis"


@prepare_app.command(
    "scannet", epilog="Example: gcbench data prepare scannet /data/ScanNet data/scannet --rgbd /data/frames"
)
def prepare_scannet(
    raw: Raw,
    out: Out,
    rgbd: Annotated[
        Path | None, typer.Option(help="Exported RGB-D frames, a folder per scene. Default: RAW/rgbd if present.")
    ] = None,
    meta_dir: Annotated[
        Path | None, typer.Option(help="Folder of the label table and split lists. Default: RAW.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Keep every n-th exported frame.")] = 1,
    max_width: Annotated[int | None, typer.Option(min=16, help="Shrink wider frames to this width, pixels.")] = None,
    workers: Workers = None,
) -> None:
    """Prepare ScanNet (scans, scans_test, label table, split lists), with RGB-D frames where given."""
    from gcbench.data import prepare

    with _progress("Preparing scenes") as step:
        dataset = prepare.prepare_scannet(
            raw,
            out,
            rgbd=rgbd,
            meta_dir=meta_dir,
            every_frame=every,
            max_width=max_width,
            workers=_cores() if workers is None else workers,
            on_scene=step,
        )
    _summary(dataset)


@prepare_app.command(
    "s3dis", epilog="Example: gcbench data prepare s3dis /data/Stanford3dDataset_v1.2_Aligned_Version data/s3dis"
)
def prepare_s3dis(raw: Raw, out: Out, workers: Workers = None) -> None:
    """Prepare S3DIS (the aligned release, Area_1 to Area_6). Normals are estimated from the points."""
    from gcbench.data import prepare

    with _progress("Preparing rooms") as step:
        dataset = prepare.prepare_s3dis(raw, out, workers=_cores() if workers is None else workers, on_scene=step)
    _summary(dataset)


@app.command(epilog="Example: gcbench data synth rooms --scenes 24 --val 8 --seed 0 --layout scannet --frames 20")
def synth(
    out: Annotated[Path, typer.Argument(help="Folder for the raw rooms.", metavar="OUT")],
    scenes: Annotated[int, typer.Option(min=1, help="Training rooms.")],
    val: Annotated[int, typer.Option(min=0, help="Validation rooms.")],
    seed: Annotated[int, typer.Option(help="Same seed, same rooms.")],
    layout: Annotated[Layout, typer.Option(help="Raw layout to write.")],
    frames: Annotated[int, typer.Option(min=0, help="RGB-D frames per room.")] = 30,
    size: Annotated[str, typer.Option(help="Size of the frames, WIDTHxHEIGHT in pixels.")] = "160x120",
    workers: Workers = None,
) -> None:
    """Generate synthetic rooms in a raw layout; prepare them like the real dataset."""
    frame_size = _size(size)
    from gcbench.data.synthetic_rooms import generate_rooms

    with _progress("Generating rooms", scenes + val) as step:
        done = iter(range(1, scenes + val + 1))
        generate_rooms(
            out,
            layout=layout.value,
            scenes=scenes,
            val=val,
            seed=seed,
            workers=_cores() if workers is None else workers,
            frames=frames,
            frame_size=frame_size,
            on_room=lambda name: step(name, next(done), scenes + val),
        )
    typer.echo(f"{scenes + val} rooms in {out}. Next: gcbench data prepare {layout.value} {out} PREPARED")


def _cores() -> int:
    return os.cpu_count() or 1


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--size {text} is no size.", "Write WIDTHxHEIGHT in pixels, e.g. --size 160x120.")
    return int(width), int(height)


@contextmanager
def _progress(title: str, total: int | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """A bar with the time left, or nothing but the summary where there is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[scene]}"),
    ) as progress:
        task = progress.add_task(title, total=total, scene="")

        def step(name: str, done: int, count: int) -> None:
            progress.update(task, completed=done, total=count, scene=name)

        yield step


def _summary(dataset: PreparedDataset) -> None:
    """Print what is in a prepared dataset and what its reader should know."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("split", "scenes", "points", "RGB-D frames", "frames dropped", title=f"{dataset.root}")
    for split, names in dataset.splits.items():
        entries = [dataset.manifest["scenes"][name] for name in names]
        counts = [sum(entry.get(key, 0) for entry in entries) for key in ("points", "frames", "frames_dropped")]
        table.add_row(split, f"{len(names):,}", *(f"{count:,}" for count in counts))
    console.print(table)
    console.print(f"labels       {', '.join(dataset.label_sets) or 'none'}", highlight=False, soft_wrap=True)
    console.print(f"normals      {dataset.manifest['normals']}", highlight=False, soft_wrap=True)
    console.print(
        f"fingerprint  {dataset.fingerprint}{'  (synthetic rooms)' if dataset.synthetic else ''}", highlight=False
    )
    for note in dataset.manifest["notes"]:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    for name, entry in dataset.manifest["scenes"].items():
        for note in entry["notes"]:
            console.print(f"note: {name}: {note}", highlight=False, soft_wrap=True)
