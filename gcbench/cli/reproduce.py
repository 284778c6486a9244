"""`gcbench reproduce TARGET`: plan tables and figures of the paper, run what is missing, report."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gcbench.cli.launch_options import (
    CpuProcesses,
    Gpus,
    TimeLimit,
    Tracker,
    launch_of,
)

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.reproduce.estimates import Estimates
    from gcbench.reproduce.plan import Choice, Plan, PlannedJob
    from gcbench.reproduce.targets import Target
    from gcbench.training.launch import Launch

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_MOST = 4  # jobs at once on the CPU, unless more are asked for
_EPILOG = """Examples:

  gcbench reproduce table1 --preset tiny --out demo --columns scannet,s3dis-area5

  gcbench reproduce all --preset tiny

  gcbench reproduce table3 --dry-run

  gcbench reproduce table1 --data /data/gcbench --seeds 3

  gcbench reproduce table3 --data /data/gcbench --gpus 4 --time-limit 23.5h

  gcbench reproduce table1 --data /data/gcbench --rows gaussiancross --encoder encoders/gaussiancross
"""


@app.command(epilog=_EPILOG)
def reproduce(
    target: Annotated[str, typer.Argument(help="table1 ... table7, fig1, fig3, figS1 ... figS5, or all.")],
    out: Annotated[Path, typer.Option(help="Folder for rooms, runs and the report.")] = Path("reproduction"),
    preset: Annotated[str | None, typer.Option(help="Small sizes for a laptop: tiny. Brings synthetic rooms.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with prepared datasets: DATA/scannet, DATA/s3dis.")] = None,
    rows: Annotated[str, typer.Option(help="Comma-separated row ids of one table; all if empty.")] = "",
    columns: Annotated[str, typer.Option(help="Comma-separated column ids of one table; all if empty.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    encoder: Annotated[
        Path | None,
        typer.Option(
            help="Take this encoder instead of pre-training: a run's folder, or what `gcbench convert` wrote.",
            metavar="DIR",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Other values than the paper's: official; table4 has lovasz too.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override, e.g. pretrain.schedule.steps=100; may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the jobs with what they cost and what is missing; run none.")
    ] = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many jobs at once, each on GPUs of its own. With a preset, without GPUs: one for each core, "
            f"at most {_MOST}; else one.",
        ),
    ] = None,
    gpus: Gpus = None,
    cpu_processes: CpuProcesses = None,
    time_limit: TimeLimit = None,
    tracker: Tracker = None,
) -> None:
    """Reproduce tables and figures of the paper. A second call skips what is done and goes on with what was cut off."""
    from rich.console import Console

    from gcbench.cli.report import write_report
    from gcbench.reproduce.execute import execute_plan
    from gcbench.reproduce.plan import Choice
    from gcbench.reproduce.planner import plan_tables
    from gcbench.reproduce.targets import load_target

    console = Console()
    chosen = load_target(target, _split(rows), _split(columns))
    choice = Choice(
        seeds=seeds,
        preset=preset,
        data=_datasets(data),
        overrides=tuple(set_ or ()),
        encoder=None if encoder is None else encoder.resolve(),
        variant=variant,
        only_show=dry_run,
    )
    figures = _with_data(console, chosen, choice)
    plan = plan_tables(chosen.selections, choice, out.resolve(), figures=figures)
    if dry_run:
        from gcbench.reproduce.estimates import estimate_plan

        _show_plan(console, target, plan, estimate_plan(plan, preset, out.resolve()))
        return
    launch = launch_of(gpus, cpu_processes, time_limit=time_limit, tracker=tracker)
    parallel = parallel or (1 if preset is None or gpus or cpu_processes else _cores())
    launch = _shared(launch, parallel, gpus)
    out.mkdir(parents=True, exist_ok=True)
    plan.record(out.resolve())
    waiting = [planned for planned in plan.jobs if not planned.run.is_done]
    at_once = f", {parallel} at once" if parallel > 1 else ""
    console.print(f"{chosen.title}: {len(plan.jobs)} jobs, {len(plan.jobs) - len(waiting)} done, in {out}{at_once}")
    live = _Live(console, waiting)
    try:
        outcome = execute_plan(
            plan, launch, parallel=parallel, on_start=live.start, on_event=live.event, on_end=live.end
        )
    finally:
        live.progress.stop()
    write_report(console, [selection.table for selection in chosen.selections], out)
    for folder, error in outcome.failed.items():
        console.print(f"[red]failed:[/] {folder.name}: {error.message} {error.way_out}", soft_wrap=True)
    if outcome.failed:
        raise typer.Exit(1)


class _Live:
    """Shows the jobs as they run, and draws the pictures of a pre-training when it ends."""

    def __init__(self, console: Console, waiting: list[PlannedJob]) -> None:
        from gcbench.cli.progress import JobProgress

        self.numbers = {planned.run.folder: number for number, planned in enumerate(waiting, start=1)}
        self.progress = JobProgress(console, len(waiting))

    def start(self, planned: PlannedJob) -> None:
        from gcbench.cli.progress import describe

        again = " (going on)" if planned.run.status in ("interrupted", "failed") else ""
        text = describe(planned.job) + again
        self.progress.start(self.numbers[planned.run.folder], text, planned.effort)

    def event(self, planned: PlannedJob, event: dict[str, Any]) -> None:
        self.progress.event(event, self.numbers[planned.run.folder])

    def end(self, planned: PlannedJob, state: str) -> None:
        if state == "blocked":
            self.start(planned)
        if state == "done" and planned.job.kind == "pretrain":
            from gcbench.reporting.run_figures import draw_pretraining

            draw_pretraining(planned.run)
        detail = "a job it needs has failed" if state == "blocked" else ""
        self.progress.end(state, detail, self.numbers[planned.run.folder])


def _show_plan(console: Console, target: str, plan: Plan, estimates: Estimates) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from gcbench.cli.progress import describe

    heads = ("steps", "samples", "epochs", f"{estimates.device}-hours")
    columns = [Column("job", overflow="fold"), *(Column(head, justify="right", no_wrap=True) for head in heads)]
    table = Table(*columns, Column("state", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    words: dict[Any, str] = {"done": "[green]done[/]", "interrupted": "goes on", "failed": "[red]failed, again[/]"}
    for planned in plan.jobs:
        cost = estimates.jobs.get(planned.run.folder)
        state = f"[yellow]no {planned.lacks}[/]" if planned.lacks else words.get(planned.run.status, "to do")
        table.add_row(describe(planned.job), *_effort(planned), _hours(cost.hours) if cost else "", state)
    console.print(table)
    done = sum(planned.run.is_done for planned in plan.jobs)
    rest = (
        f"the rest takes about {_hours(estimates.hours)} {estimates.device}-hours, "
        f"{_megabytes(estimates.memory_mb)} of memory and {_megabytes(estimates.disk_mb)} of disk"
        if estimates.jobs
        else "there is nothing to train"
    )
    console.print(f"{len(plan.jobs)} jobs, {done} done; {rest}.", style="bold", highlight=False)
    for source in estimates.sources:
        console.print(f"Estimate: {source}.", style="dim", highlight=False)
    missing = sorted({planned.lacks for planned in plan.jobs if planned.lacks})
    if missing:
        console.print(
            f"Not there: {', '.join(missing)}. `gcbench data plan {'table1' if target == 'all' else target}` says how "
            "to get it; then give --data ROOT. Or try it on synthetic rooms: --preset tiny.",
            style="yellow",
            highlight=False,
        )


def _effort(planned: PlannedJob) -> tuple[str, str, str]:
    """Steps, samples and the paper's epochs of a training; of other jobs what they make."""
    values = planned.job.recipe.values if planned.job.kind in ("pretrain", "semantic", "instance") else {}
    if not values:
        return "", planned.effort, ""
    epochs = values.get("schedule.epochs")
    of_paper = "" if epochs is None else f"{epochs:,}"
    if planned.samples is None:
        return "?", "?", of_paper
    return f"{planned.samples // values['schedule.batch_size']:,}", f"{planned.samples:,}", of_paper


def _hours(hours: float | None) -> str:
    if hours is None:
        return "?"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2f}"


def _megabytes(size: float) -> str:
    return f"{size / 1000:,.1f} GB" if size >= 1000 else f"{size:.0f} MB"


def _with_data(console: Console, target: Target, choice: Choice) -> list[str]:
    """The target's figures; beside tables one is left out if nobody has given its data."""
    from gcbench.recipe.figures import load_figure

    kept = []
    for figure in target.figures:
        dataset = load_figure(figure, choice.preset).definition.data
        if target.selections and choice.data and dataset not in choice.data and not choice.only_show:
            console.print(f"[yellow]{figure} is left out: there is no '{dataset}' in the data folder.", soft_wrap=True)
        else:
            kept.append(figure)
    return kept


def _cores() -> int:
    import torch

    return 1 if torch.cuda.is_available() else min(os.cpu_count() or 1, _MOST)


def _shared(launch: Launch, parallel: int, gpus: int | None) -> Launch:
    """What each of the jobs that run at once gets: GPUs of its own, or its share of the cores."""
    if parallel == 1:
        return launch
    import torch

    from gcbench.training.launch import check_gpus

    if gpus is not None or (torch.cuda.is_available() and not launch.cpu):
        check_gpus(parallel * launch.processes)
        return replace(launch, devices=tuple(range(parallel * launch.processes)))
    threads = max((os.cpu_count() or 1) // (parallel * launch.processes), 1)
    return replace(launch, threads=threads)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _datasets(root: Path | None) -> dict[str, Path]:
    from gcbench.errors import DataError

    if root is None:
        return {}
    found = {path.parent.name: path.parent.resolve() for path in sorted(root.glob("*/dataset.json"))}
    if not found:
        raise DataError(
            f"{root} has no prepared dataset.", f"Make one: gcbench data prepare scannet RAW {root / 'scannet'}"
        )
    return found
