"""`gcbench pretrain`: pre-train an encoder on scenes with posed frames."""

from __future__ import annotations

import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gcbench.cli.launch_options import (
    AccelerateConfig,
    CpuProcesses,
    Gpus,
    MainAddress,
    NodeRank,
    Nodes,
    TimeLimit,
    Tracker,
    launch_of,
)

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.protocols.jobs import PretrainJob
    from gcbench.recipe.loader import LoadedRecipe
    from gcbench.runs.results import PretrainResult
    from gcbench.runs.store import Run
    from gcbench.training.launch import Launch

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_DIFFERENCES = 10
_EPILOG = """Examples:

  gcbench pretrain --preset tiny

  gcbench pretrain --data prepared/scannet --gpus 8 --out runs/gaussiancross

  gcbench pretrain --data prepared/scannet --gpus 8 --nodes 2 --node-rank 1 --main-address node01:29500

  gcbench pretrain --recipe pretrain/views-2 --data prepared/scannet --dry-run

  gcbench pretrain --preset scan --data prepared/mine --set schedule.steps=300
"""


@app.command(epilog=_EPILOG)
def pretrain(
    data: Annotated[
        Path | None,
        typer.Option(help="A prepared dataset with RGB-D frames. Without it a preset makes synthetic rooms."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; an interrupted run there goes on. [default: runs/NAME]")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name or file (see `gcbench recipes`).")] = (
        "pretrain/gaussiancross"
    ),
    preset: Annotated[
        str | None, typer.Option(help="For a laptop: tiny (synthetic rooms) or scan (one scan of your own).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides weights, order and views.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override section.key=value (rooms.section.key=value: of the preset's rooms)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show sizes, and train nothing.")
    ] = False,
    gpus: Gpus = None,
    cpu_processes: CpuProcesses = None,
    nodes: Nodes = None,
    node_rank: NodeRank = None,
    main_address: MainAddress = None,
    accelerate_config: AccelerateConfig = None,
    time_limit: TimeLimit = None,
    tracker: Tracker = None,
) -> None:
    """Pre-train an encoder. It ends as OUT/encoder/model.safetensors, with pictures of held-out views beside it.

    The same command goes on where an interrupted run stopped, and returns at once when it is done.
    """
    from rich.console import Console

    from gcbench.errors import InputError, refusing
    from gcbench.recipe.loader import load_recipe
    from gcbench.recipe.schema import PretrainRecipe
    from gcbench.runs.results import PretrainResult

    console = Console()
    room_overrides = [text for text in set_ or () if text.startswith("rooms.")]
    overrides = [text for text in set_ or () if not text.startswith("rooms.")]
    loaded = load_recipe(recipe, preset=preset, overrides=overrides)
    if not isinstance(loaded.recipe, PretrainRecipe):
        raise InputError(f"'{recipe}' is a recipe of kind '{loaded.recipe.kind}'.", "Choose one of kind 'pretrain'.")
    launch = launch_of(gpus, cpu_processes, nodes, node_rank, main_address, accelerate_config, time_limit, tracker)
    name = "-".join(filter(None, (Path(loaded.name).stem, preset, f"seed{seed}")))
    folder = out or Path("runs") / name
    if data is None:
        if launch.nodes > 1:
            raise InputError("--nodes needs --data: rooms are made by one machine.", "Prepare a dataset first.")
        data = _rooms(console, loaded, room_overrides, folder.resolve().parent / "data", make=not dry_run)
    if dry_run:
        from gcbench.cli.pretrain_plan import show_plan

        show_plan(console, loaded.recipe, data, folder.resolve(), launch.world)
        return
    with refusing():
        job = _job(loaded, data, name, seed)
    run = open_run(folder, job)
    if run.is_done:
        console.print(f"{folder} is done already.", soft_wrap=True)
    else:
        _train(console, run, job, launch)
    if not launch.is_main:
        console.print(f"Node {launch.node_rank} of {launch.nodes} is done.")
        return
    result = run.result()
    assert isinstance(result, PretrainResult)
    show_result(console, result, folder, _first_scene(loaded, data))


def open_run(folder: Path, job: PretrainJob) -> Run:
    """The run of a job in a folder. A run of other settings in which nothing was trained gives way.

    Raises:
        RunError: the folder holds a run of other settings; says which differ.
    """
    from gcbench.errors import RunError
    from gcbench.runs.store import Run

    run, known = Run(folder.resolve(), kind=job.kind, name=job.name, key=job.key), Run(folder.resolve())
    manifest = known.manifest
    if manifest is None or manifest.key == job.key:
        return run
    if known.status in ("failed", "queued", "interrupted") and not any(known.checkpoints.glob("*.pt")):
        (folder / "manifest.json").unlink()
        known.log_path.unlink(missing_ok=True)
        return run
    listed = "; ".join(differences(known.job(), job.model_dump(mode="json")))
    raise RunError(
        f"{folder} holds a run of other settings: {listed or 'other content'}.",
        "Use another --out, or the same settings to go on with it.",
    )


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What two pre-training jobs (as JSON) differ in, in words; at most ten, then a count."""
    before, now = _settings(there), _settings(here)
    found = [
        f"{key} is {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in dict.fromkeys((*before, *now))
        if before.get(key) != now.get(key)
    ]
    more = len(found) - _DIFFERENCES
    return [*found[:_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]


def show_result(console: Console, result: PretrainResult, folder: Path, scene: str) -> None:
    """PSNR over the steps, what it cost, and where everything is."""
    from rich.table import Table

    table = Table("step", "held-out views", "views trained on", title="PSNR (dB)", title_justify="left")
    for column in table.columns:
        column.justify = "right"
    for point in result.psnr:
        table.add_row(f"{point.step:,}", f"{point.psnr_heldout:.2f}", f"{point.psnr_train:.2f}")
    console.print(table)
    warnings = ", ".join(f"{count} x {kind}" for kind, count in result.warnings.items())
    lines = {
        "Losses": "  ".join(f"{name} {value:.4f}" for name, value in result.losses.items()),
        "Time": f"{result.seconds_per_scene:.3f} s per scene, {result.seconds_per_step:.3f} s per step"
        + (f" ({result.processes} processes)" if result.processes > 1 else ""),
        "Memory": f"{result.peak_memory_mb:,.0f} MB at its peak",
        "Gaussians": f"{result.gaussians_kept:,.0f} kept per scene",
        "Warnings": warnings or "none",
        "Encoder": str(folder / "encoder" / "model.safetensors"),
        "Panels": str(folder / "panels"),
        "Figures": str(folder / "figures"),
        "Next": shlex.join(["gcbench", "render", str(folder), scene]),
    }
    for title, text in lines.items():
        console.print(f"{title:<10} {text}", highlight=False, soft_wrap=True, markup=False)


def _rooms(console: Console, loaded: LoadedRecipe, overrides: list[str], folder: Path, *, make: bool) -> Path:
    """Synthetic rooms of the preset, prepared in `folder`, where all runs beside it share them."""
    from gcbench.errors import InputError
    from gcbench.protocols.jobs import JobRecipe, room_jobs
    from gcbench.recipe.loader import load_recipe, preset_names
    from gcbench.recipe.schema import PretrainRecipe
    from gcbench.reproduce.execute import run_job
    from gcbench.reproduce.planner import ROOMS_RECIPE
    from gcbench.runs.store import RunStore

    assert isinstance(loaded.recipe, PretrainRecipe)
    layout = loaded.recipe.data.dataset
    if loaded.preset not in preset_names("rooms"):
        bringing = " or ".join(f"--preset {name}" for name in preset_names("rooms"))
        raise InputError(
            "There is nothing to train on: give --data.",
            f"`gcbench data plan {layout}` says how to get it, `gcbench data prepare {layout} RAW OUT` makes it ready; "
            f"{bringing} makes synthetic rooms.",
        )
    texts = [text.removeprefix("rooms.") for text in overrides]
    rooms = JobRecipe.of(load_recipe(ROOMS_RECIPE, preset=loaded.preset, overrides=texts))
    jobs = room_jobs(layout, rooms, folder)
    store = RunStore(folder)
    waiting = [(store.run(job.kind, job.name, job.key), job) for job in jobs]
    waiting = [(run, job) for run, job in waiting if not run.is_done]
    if make:
        _run_all(console, [(run, job, partial(run_job, run, job)) for run, job in waiting])
    return jobs[1].out


def _train(console: Console, run: Run, job: PretrainJob, launch: Launch) -> None:
    """Train in worker processes. Of a job that is refused before it begins nothing stays in the run's folder."""
    from gcbench.errors import RefusedError
    from gcbench.protocols.jobs import WORKER
    from gcbench.training.launch import run_worker

    before = set(run.folder.iterdir()) if run.folder.is_dir() else None
    if launch.is_main:
        run.queue(job.model_dump(mode="json"))

    def start(on_event: Any) -> None:
        run_worker(WORKER, run.job_path, run.folder / "worker.log", on_event, launch)

    try:
        _run_all(console, [(run, job, start)])
    except RefusedError:
        if not launch.is_main:
            raise
        for path in set(run.folder.iterdir()) - (before or set()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if before is None:
            run.folder.rmdir()
        raise


def _run_all(console: Console, waiting: list[tuple[Run, Any, Any]]) -> None:
    """Run jobs one after the other, with their progress."""
    from gcbench.cli.progress import JobProgress, describe

    progress = JobProgress(console, len(waiting), evaluations=True)
    for number, (run, job, start) in enumerate(waiting, start=1):
        again = " (going on)" if any(run.checkpoints.glob("*.pt")) else ""
        progress.start(number, describe(job) + again)
        try:
            start(partial(progress.event, number=number))
        except BaseException:
            progress.stop()
            raise
        progress.end("done", number=number)


def _job(loaded: LoadedRecipe, data: Path, name: str, seed: int) -> PretrainJob:
    from gcbench.data.storage import PreparedDataset
    from gcbench.protocols.jobs import JobRecipe, PretrainJob

    fingerprint = PreparedDataset.open(data).fingerprint
    return PretrainJob(name=name, recipe=JobRecipe.of(loaded), data=data.resolve(), data_key=fingerprint, seed=seed)


def _first_scene(loaded: LoadedRecipe, data: Path) -> str:
    from gcbench.data.storage import PreparedDataset
    from gcbench.recipe.schema import PretrainRecipe

    assert isinstance(loaded.recipe, PretrainRecipe)
    return PreparedDataset.open(data).scene_names(loaded.recipe.data.splits)[0]


def _settings(job: dict[str, Any]) -> dict[str, Any]:
    recipe = job.get("recipe") or {}
    return {
        "kind of job": job.get("kind"),
        "seed": job.get("seed"),
        "data": job.get("data_key"),
        **recipe.get("values", {}),
    }
