"""`gcbench runs`: what ran, how far it is, how runs differ; go on with one, and make room."""

from __future__ import annotations

import json
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
    from gcbench.runs.overview import RunSummary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Runs: list, show, compare, go on, make room.",
)

_Root = Annotated[Path, typer.Argument(help="A folder with runs, such as the --out of a command.")]
_Run = Annotated[Path, typer.Argument(help="A run's folder.")]
_STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "queued": "dim"}
_FILES = ("result.json", "log.jsonl", "worker.log", "encoder", "models", "figures", "tensorboard", "faults")


@app.command("list", epilog="Example:  gcbench runs list reproduction --status failed")
def list_runs(
    root: _Root = Path("runs"),
    status: Annotated[
        str | None, typer.Option(help="Only those that are done, running, interrupted, failed or queued.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one object per run.")] = False,
) -> None:
    """List the runs in a folder and below."""
    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.errors import InputError
    from gcbench.runs.overview import RunSummary, find_runs

    if status is not None and status not in _STYLES:
        raise InputError(f"--status {status}: no run is that.", f"Choose one of {', '.join(_STYLES)}.")
    summaries = [RunSummary.of(run) for run in find_runs(root)]
    chosen = [one for one in summaries if status in (None, one.status)]
    console = Console()
    if as_json:
        typer.echo(json.dumps([_as_json(one) for one in chosen], indent=2))
        return
    if not chosen:
        which = f" that is {status}" if status else ""
        console.print(f"There is no run{which} in {root}.", highlight=False, soft_wrap=True)
        return
    table = Table(Column("run", overflow="fold"), "kind", "state", Column("steps", justify="right"), "last", "written")
    for one in chosen:
        state = f"[{_STYLES[one.status]}]{one.status}[/]" if one.status else ""
        steps = f"{one.step:,}/{one.total:,}" if one.step and one.total else ""
        table.add_row(_relative(one.run.folder, root), one.kind, state, steps, _headline(one), _when(one))
    console.print(table)


@app.command("show", epilog="Example:  gcbench runs show runs/gaussiancross-seed0")
def show(
    run: _Run,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show one run: state, progress, what it measured last, what went wrong, and where its files are."""
    from rich.console import Console

    from gcbench.runs.overview import RunSummary, size_of
    from gcbench.runs.store import Run

    one = RunSummary.of(Run(run.resolve()))
    if as_json:
        typer.echo(json.dumps(_as_json(one), indent=2))
        return
    console = Console()
    lines = {"Run": f"{one.name} ({one.kind})", "State": str(one.status)}
    if one.step and one.total:
        left = f", about {_duration(one.seconds_left)} left" if one.seconds_left else ""
        rate = f", {one.seconds_per_step:.3g} s per step" if one.seconds_per_step else ""
        lines["Progress"] = f"step {one.step:,} of {one.total:,} ({one.step / one.total:.0%}){rate}{left}"
    if "data_share" in one.values:
        lines["Waiting"] = f"{one.values['data_share']:.0%} of the time for data"
    if "memory_mb" in one.values:
        lines["Memory"] = f"{one.values['memory_mb']:,.0f} MB"
    rest = {k: v for k, v in one.values.items() if k not in ("data_share", "memory_mb", "seconds", "seconds_per_scene")}
    lines["Last"] = "  ".join(f"{name} {value:.4g}" for name, value in rest.items())
    if one.warnings:
        lines["Warnings"] = ", ".join(f"{count} x {kind}" for kind, count in one.warnings.items())
    if one.error:
        lines["Error"] = one.error
    job = one.run.job()
    if job.get("recipe"):
        preset = f", preset {job['recipe']['preset']}" if job["recipe"].get("preset") else ""
        lines["Recipe"] = f"{job['recipe']['name']}{preset}"
    for name in ("seed", "data"):
        if job.get(name) is not None:
            lines[name.capitalize()] = str(job[name])
    lines["Size"] = _bytes(size_of(one.run.folder))
    lines["Files"] = " ".join(name for name in _FILES if (one.run.folder / name).exists())
    for title, text in lines.items():
        console.print(f"{title:<10} {text}", highlight=False, soft_wrap=True, markup=False)
    if one.status in ("interrupted", "failed", "queued"):
        console.print(f"{'Next':<10} gcbench runs resume {run}", highlight=False, soft_wrap=True, markup=False)


@app.command("resume", epilog="Example:  gcbench runs resume runs/gaussiancross-seed0 --gpus 8")
def resume(
    run: _Run,
    gpus: Gpus = None,
    cpu_processes: CpuProcesses = None,
    nodes: Nodes = None,
    node_rank: NodeRank = None,
    main_address: MainAddress = None,
    accelerate_config: AccelerateConfig = None,
    time_limit: TimeLimit = None,
    tracker: Tracker = None,
) -> None:
    """Go on with a run from its job file: one that was cut off, failed or is queued. With any number of processes."""
    from rich.console import Console

    from gcbench.cli.progress import JobProgress, describe
    from gcbench.errors import RunError
    from gcbench.protocols.jobs import WORKER, read_job
    from gcbench.runs.store import Run
    from gcbench.training.launch import run_worker

    console = Console()
    launch = launch_of(gpus, cpu_processes, nodes, node_rank, main_address, accelerate_config, time_limit, tracker)
    there = Run(run.resolve())
    if there.manifest is None:
        raise RunError(f"{run} is not a run folder: it has no manifest.", "See `gcbench runs list`.")
    if there.is_done:
        console.print(f"{run} is done already.", soft_wrap=True)
        return
    job = read_job(there.job_path)
    if launch.is_main:
        there.queue(job.model_dump(mode="json"))
    progress = JobProgress(console, 1, evaluations=True)
    progress.start(1, describe(job))
    try:
        run_worker(WORKER, there.job_path, there.folder / "worker.log", progress.event, launch)
    except BaseException:
        progress.stop()
        raise
    progress.end("done")


@app.command("compare", epilog="Example:  gcbench runs compare runs/a runs/b --plot curves.png")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    plot: Annotated[Path | None, typer.Option(help="Draw their curves into this PNG file.", metavar="FILE")] = None,
) -> None:
    """Show in which settings runs differ, and what they measured last."""
    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.errors import InputError
    from gcbench.runs.overview import RunSummary, differences
    from gcbench.runs.store import Run

    if len(runs) < 2:
        raise InputError("One run cannot be compared.", "Give two or more run folders.")
    all_runs = [RunSummary.of(Run(path.resolve())) for path in runs]
    console = Console()

    def table(title: str, rows: str) -> Table:
        columns = (Column(_short(path, runs), overflow="fold") for path in runs)
        return Table(Column(rows, no_wrap=True), *columns, title=title, title_justify="left")

    different = table("What differs", "setting")
    for key, values in differences([one.run for one in all_runs]).items():
        different.add_row(key, *("" if value is None else str(value) for value in values))
    console.print(different if different.row_count else "No setting differs.")
    measured = table("What they measured last", "value")
    measured.add_row("state", *(str(one.status) for one in all_runs))
    measured.add_row("steps", *("" if one.step is None else f"{one.step:,}" for one in all_runs))
    for name in dict.fromkeys(name for one in all_runs for name in one.values):
        measured.add_row(name, *(f"{one.values[name]:.4g}" if name in one.values else "" for one in all_runs))
    console.print(measured)
    if plot is not None:
        from gcbench.reporting.run_figures import draw_comparison

        draw_comparison([(_short(path, runs), one.run) for path, one in zip(runs, all_runs, strict=True)], plot)
        console.print(f"Curves: {plot}", highlight=False, soft_wrap=True)


@app.command("clean", epilog="Example:  gcbench runs clean reproduction --yes")
def clean(
    root: _Root = Path("runs"),
    failed: Annotated[
        bool, typer.Option("--failed", help="Also runs that failed before their first checkpoint.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
) -> None:
    """Show what nothing will need again, and remove it: checkpoints and kept predictions of finished runs, leftovers.

    Results, weights, figures and logs stay, and so does everything of a run that can go on.
    """
    import shutil

    from rich.console import Console
    from rich.table import Column, Table

    from gcbench.runs.overview import find_runs, removable

    console = Console()
    found = [one for one in (removable(run, failed=failed) for run in find_runs(root)) if one is not None]
    if not found:
        console.print(f"There is nothing to remove in {root}.", highlight=False, soft_wrap=True)
        return
    table = Table(Column("run", overflow="fold"), "what", Column("size", justify="right"))
    for one in found:
        table.add_row(_relative(one.run.folder, root), one.why, _bytes(one.size))
    console.print(table)
    total = _bytes(sum(one.size for one in found))
    if not yes:
        console.print(f"{total} can be removed; --yes removes it.", highlight=False)
        return
    for one in found:
        for path in one.paths:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    console.print(f"{total} removed.", highlight=False)


def _as_json(one: RunSummary) -> dict[str, Any]:
    return {
        "folder": str(one.run.folder),
        "kind": one.kind,
        "name": one.name,
        "status": one.status,
        "step": one.step,
        "total": one.total,
        "seconds_per_step": one.seconds_per_step,
        "seconds_left": one.seconds_left,
        "values": dict(one.values),
        "warnings": dict(one.warnings),
        "error": one.error,
        "started": one.started.isoformat() if one.started else None,
        "ended": one.ended.isoformat() if one.ended else None,
    }


def _headline(one: RunSummary) -> str:
    if one.headline is None:
        return ""
    from gcbench.cli.progress import number

    left = f", {_duration(one.seconds_left)} left" if one.status == "running" and one.seconds_left else ""
    return number(*one.headline) + left


def _when(one: RunSummary) -> str:
    return one.touched.astimezone().strftime("%Y-%m-%d %H:%M") if one.touched else ""


def _relative(folder: Path, root: Path) -> str:
    return str(folder.resolve().relative_to(root.resolve())) if folder.resolve() != root.resolve() else folder.name


def _short(path: Path, others: list[Path]) -> str:
    names = [other.resolve().name for other in others]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)


def _duration(seconds: float) -> str:
    from gcbench.cli.progress import duration

    return duration(seconds)


def _bytes(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
