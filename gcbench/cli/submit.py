"""`gcbench submit`: put a command of gcbench into a queue."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench submit --gpus 8 --nodes 2 --time 24h --slurm partition=gpu pretrain --data prepared/scannet --out runs/gc

  gcbench submit --gpus 4 --time 12h reproduce table3 --data prepared --out reproduction

  gcbench submit --cluster local pretrain --preset tiny
"""
_COMMANDS = {"pretrain": True, "reproduce": False, "runs": True}  # which can share several nodes


class Cluster(str, Enum):
    """Which queue."""

    slurm = "slurm"
    local = "local"


@app.command(
    epilog=_EPILOG,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def submit(
    command: Annotated[list[str], typer.Argument(help="pretrain, reproduce or runs resume, with all its options.")],
    nodes: Annotated[int, typer.Option(min=1, help="So many nodes.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node; 0 trains on the CPU.")] = 0,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Cores of each node. Default: what the queue gives.", show_default=False)
    ] = None,
    time: Annotated[
        str, typer.Option(help="Time limit: 90m, 24h, 2d or 24:00:00. A job that reaches it goes on in a next one.")
    ] = "24h",
    slurm: Annotated[
        list[str] | None, typer.Option(help="An option of sbatch; may be repeated.", metavar="NAME=VALUE")
    ] = None,
    cluster: Annotated[Cluster, typer.Option(help="Slurm, or this machine to try it out.")] = Cluster.slurm,
    logs: Annotated[Path, typer.Option(help="Folder for the job's script and logs.")] = Path("queue"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be queued.")] = False,
) -> None:
    """Put a command into a queue. Near its time limit it writes a checkpoint, and the job goes on in a next one."""
    from rich.console import Console

    from gcbench.cli.launch_options import seconds_of
    from gcbench.errors import InputError
    from gcbench.training.queued import Request
    from gcbench.training.queued import submit as into_queue

    verb = command[0]
    if verb not in _COMMANDS or (verb == "runs" and command[1:2] != ["resume"]):
        raise InputError(
            f"'{shlex.join(command[:2])}' does not run in a queue.", "Give pretrain, reproduce or runs resume."
        )
    if nodes > 1 and not _COMMANDS[verb]:
        raise InputError(
            f"The jobs of {verb} run on one node.", "Leave --nodes away, or queue the large ones with pretrain."
        )
    words = [*command, *(["--gpus", str(gpus)] if gpus else [])]
    options = {}
    for text in slurm or ():
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise InputError(f"--slurm {text} is not NAME=VALUE.", "For example --slurm partition=gpu.")
        options[name.removeprefix("--").replace("-", "_")] = value
    request = Request(
        name=f"gcbench-{verb}",
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        minutes=max(int(seconds_of(time) // 60), 1),
        logs=logs,
        options=options,
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Command  {shlex.join(['gcbench', *words])}", markup=False)
    each = f"{gpus} GPUs" if gpus else "the CPU"
    console.print(f"On       {nodes} x {each}, {request.minutes} minutes at a time{_listed(options)}", markup=False)
    if dry_run:
        return
    job = into_queue(words, request, "slurm" if cluster is Cluster.slurm else "local")
    console.print(f"Job      {job.job_id}")
    console.print(f"Log      {job.paths.stdout}", markup=False)
    if cluster is Cluster.slurm:
        console.print(f"Next     squeue -j {job.job_id}, gcbench runs list, scancel {job.job_id}", markup=False)


def _listed(options: dict[str, str]) -> str:
    return "".join(f", {name} {value}" for name, value in options.items())
