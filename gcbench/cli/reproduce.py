"""`gcbench reproduce TABLE`: plan a table, run what is missing, report."""

from __future__ import annotations

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

    from gcbench.reproduce.plan import Plan, PlannedJob

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench reproduce table1 --preset tiny --out demo --columns scannet,s3dis-area5

  gcbench reproduce table1 --data /data/gcbench --seeds 3 --dry-run

  gcbench reproduce table3 --data /data/gcbench --gpus 4 --time-limit 23.5h

  gcbench reproduce table1 --data /data/gcbench --rows gaussiancross --encoder encoders/gaussiancross
"""


@app.command(epilog=_EPILOG)
def reproduce(
    table: Annotated[str, typer.Argument(help="Which table, e.g. table1.")],
    out: Annotated[Path, typer.Option(help="Folder for rooms, runs and the report.")] = Path("reproduction"),
    preset: Annotated[str | None, typer.Option(help="Small sizes for a laptop: tiny. Brings synthetic rooms.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with prepared datasets: DATA/scannet, DATA/s3dis.")] = None,
    rows: Annotated[str, typer.Option(help="Comma-separated row ids; all if empty.")] = "",
    columns: Annotated[str, typer.Option(help="Comma-separated column ids; all if empty.")] = "",
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and run none.")] = False,
    gpus: Gpus = None,
    cpu_processes: CpuProcesses = None,
    time_limit: TimeLimit = None,
    tracker: Tracker = None,
) -> None:
    """Reproduce a table of the paper. A second call skips what is done and goes on with what was cut off."""
    from rich.console import Console

    from gcbench.cli.report import write_report
    from gcbench.recipe.tables import load_table
    from gcbench.reproduce.execute import execute_plan
    from gcbench.reproduce.plan import Choice, choose, plan_table

    console = Console()
    launch = launch_of(gpus, cpu_processes, time_limit=time_limit, tracker=tracker)
    definition = load_table(table)
    choice = Choice(
        rows=choose(definition, _split(rows), "row"),
        columns=choose(definition, _split(columns), "column"),
        seeds=seeds,
        preset=preset,
        data=_datasets(data),
        overrides=tuple(set_ or ()),
        encoder=None if encoder is None else encoder.resolve(),
        variant=variant,
    )
    plan = plan_table(definition, choice, out.resolve())
    if dry_run:
        _show_plan(console, plan)
        return
    out.mkdir(parents=True, exist_ok=True)
    waiting = [planned for planned in plan.jobs if not planned.run.is_done]
    console.print(f"{definition.title}: {len(plan.jobs)} jobs, {len(plan.jobs) - len(waiting)} done, in {out}")
    live = _Live(console, waiting)
    try:
        outcome = execute_plan(plan, launch, on_start=live.start, on_event=live.progress.event, on_end=live.end)
    finally:
        live.progress.stop()
    write_report(console, definition, plan.cells, out)
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

    def end(self, planned: PlannedJob, state: str) -> None:
        if state == "blocked":
            self.start(planned)
        if state == "done" and planned.job.kind == "pretrain":
            from gcbench.reporting.run_figures import draw_pretraining

            draw_pretraining(planned.run)
        self.progress.end(state, "a job it needs has failed" if state == "blocked" else "")


def _show_plan(console: Console, plan: Plan) -> None:
    from rich.table import Table

    from gcbench.cli.progress import describe

    table = Table("", "job", "effort", "state", title="Plan", title_justify="left")
    words: dict[Any, str] = {"done": "[green]done[/]", "interrupted": "goes on", "failed": "[red]failed, again[/]"}
    for number, planned in enumerate(plan.jobs, start=1):
        state = words.get(planned.run.status, "to do")
        table.add_row(str(number), describe(planned.job), planned.effort, state)
    console.print(table)


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
