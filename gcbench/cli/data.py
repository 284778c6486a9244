"""`gcbench data`: everything about datasets. Preparing and synthetic rooms are here, the other verbs beside it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from gcbench.cli import data_check, data_convert, data_subsets, data_view
from gcbench.cli.dataset_summary import print_summary
from gcbench.cli.scene_options import KeepGoing, Workers, processes
from gcbench.cli.scene_progress import scene_progress
from gcbench.errors import InputError

app = typer.Typer(
    help="Plan, prepare, import, check and look at datasets; generate synthetic rooms.",
    no_args_is_help=True,
    add_completion=False,
)
prepare_app = typer.Typer(help="Turn a raw dataset into a prepared one.", no_args_is_help=True)
import_app = typer.Typer(help="Take over a dataset that was processed elsewhere.", no_args_is_help=True)

Raw = Annotated[Path, typer.Argument(help="Folder with the raw dataset.", metavar="RAW")]
Out = Annotated[Path, typer.Argument(help="Folder of the prepared dataset. Run again to go on.", metavar="OUT")]


class Layout(str, Enum):
    """Raw layouts that rooms can be written in."""

    scannet = "scannet"
    s3dis = "s3dis"


class Release(str, Enum):
    """Releases of S3DIS."""

    auto = "auto"
    aligned = "aligned"
    unaligned = "unaligned"


@prepare_app.command(
    "scannet",
    epilog="Examples:\n\ngcbench data prepare scannet /data/scannet prepared/scannet\n\n"
    "gcbench data prepare scannet /data/scannet prepared/scannet --every 20 --max-width 320 --keep-going",
)
def prepare_scannet(
    raw: Raw,
    out: Out,
    rgbd: Annotated[
        Path | None,
        typer.Option(
            help="Exported RGB-D frames, a folder per scene. Default: RAW/rgbd, else the .sens beside a mesh."
        ),
    ] = None,
    meta_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the label table and split lists. Default: RAW, else downloaded."),
    ] = None,
    frames: Annotated[bool, typer.Option(help="Keep posed RGB-D frames; only pre-training needs them.")] = True,
    every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep every n-th frame. Default: all exported ones, every 10th of a .sens.", show_default=False
        ),
    ] = None,
    max_width: Annotated[int | None, typer.Option(min=16, help="Shrink wider frames to this width, pixels.")] = None,
    workers: Workers = None,
    keep_going: KeepGoing = False,
) -> None:
    """Prepare ScanNet and ScanNet200 in one pass: scans, scans_test, labels, splits, and posed RGB-D frames."""
    from gcbench.data import prepare

    with scene_progress("Preparing scenes") as step:
        dataset = prepare.prepare_scannet(
            raw,
            out,
            rgbd=rgbd,
            meta_dir=meta_dir,
            frames=frames,
            every_frame=every,
            max_width=max_width,
            workers=processes(workers),
            on_scene=step,
            keep_going=keep_going,
        )
    print_summary(dataset)


@prepare_app.command(
    "s3dis",
    epilog="Examples:\n\ngcbench data prepare s3dis /data/Stanford3dDataset_v1.2_Aligned_Version prepared/s3dis\n\n"
    "gcbench data prepare s3dis /data/Stanford3dDataset_v1.2 prepared/s3dis --meshes /data/2d3ds_noXYZ",
)
def prepare_s3dis(
    raw: Raw,
    out: Out,
    release: Annotated[
        Release,
        typer.Option(help="auto: unaligned (rooms are turned) where angles are listed."),
    ] = Release.auto,
    meshes: Annotated[
        Path | None,
        typer.Option(help="2D-3D-S download with area_1/3d/rgb.obj ..., for normals. Default: normals are estimated."),
    ] = None,
    workers: Workers = None,
    keep_going: KeepGoing = False,
) -> None:
    """Prepare S3DIS, the aligned or the unaligned release (Area_1 to Area_6)."""
    from gcbench.data import prepare

    with scene_progress("Preparing rooms") as step:
        dataset = prepare.prepare_s3dis(
            raw,
            out,
            release=release.value,
            meshes=meshes,
            workers=processes(workers),
            on_scene=step,
            keep_going=keep_going,
        )
    print_summary(dataset)


app.command("plan", epilog=data_check.PLAN_EXAMPLES)(data_check.plan)
app.add_typer(prepare_app, name="prepare")
app.add_typer(import_app, name="import")
import_app.command("pointcept", epilog=data_convert.IMPORT_EXAMPLE)(data_convert.import_pointcept)
app.command("export", epilog=data_convert.EXPORT_EXAMPLE)(data_convert.export)
app.command("subsets", epilog=data_subsets.EPILOG)(data_subsets.subsets)
app.command("audit", epilog=data_check.AUDIT_EXAMPLES)(data_check.audit)
app.command("view", epilog=data_view.EXAMPLES)(data_view.view)


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

    with scene_progress("Generating rooms", scenes + val) as step:
        done = iter(range(1, scenes + val + 1))
        generate_rooms(
            out,
            layout=layout.value,
            scenes=scenes,
            val=val,
            seed=seed,
            workers=processes(workers),
            frames=frames,
            frame_size=frame_size,
            on_room=lambda name: step(name, next(done), scenes + val),
        )
    typer.echo(f"{scenes + val} rooms in {out}. Next: gcbench data prepare {layout.value} {out} PREPARED")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise InputError(f"--size {text} is no size.", "Write WIDTHxHEIGHT in pixels, e.g. --size 160x120.")
    return int(width), int(height)
