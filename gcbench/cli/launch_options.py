"""Options that every verb with training has: how many processes, on which nodes, until when, and who else is told."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gcbench.errors import InputError

if TYPE_CHECKING:
    from gcbench.training.launch import Launch

_PANEL = "Processes and nodes"

Gpus = Annotated[int | None, typer.Option(min=1, help="Train on so many GPUs of this machine.", rich_help_panel=_PANEL)]
CpuProcesses = Annotated[
    int | None,
    typer.Option(min=1, help="Train in so many processes on the CPU instead.", rich_help_panel=_PANEL),
]
Nodes = Annotated[
    int | None,
    typer.Option(min=1, help="So many nodes train together, each with as many processes.", rich_help_panel=_PANEL),
]
NodeRank = Annotated[
    int | None, typer.Option(min=0, help="Which of the nodes this is, from 0.", rich_help_panel=_PANEL)
]
MainAddress = Annotated[
    str | None, typer.Option(help="Where node 0 listens, HOST:PORT.", metavar="HOST:PORT", rich_help_panel=_PANEL)
]
AccelerateConfig = Annotated[
    Path | None,
    typer.Option(
        help="Take processes and nodes from a file of `accelerate config`; 'default' is its default file.",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Stop with a checkpoint after so long: 90m, 11.5h, 2d or 11:30:00. A Slurm job's end is kept without it.",
        metavar="TIME",
        rich_help_panel=_PANEL,
    ),
]
Tracker = Annotated[
    list[str] | None,
    typer.Option(
        help="Where Accelerate logs too: tensorboard (the default), wandb, ...; none for nowhere. May be repeated.",
        metavar="NAME",
        rich_help_panel=_PANEL,
    ),
]


def launch_of(
    gpus: int | None,
    cpu_processes: int | None,
    nodes: int | None = None,
    node_rank: int | None = None,
    main_address: str | None = None,
    accelerate_config: Path | None = None,
    time_limit: str | None = None,
    tracker: list[str] | None = None,
) -> Launch:
    """What the options ask for.

    Raises:
        InputError: they contradict each other, or ask for what there is not.
    """
    from gcbench.training.launch import Launch, check_gpus
    from gcbench.training.nodes import parse_address

    if gpus is not None and cpu_processes is not None:
        raise InputError("--gpus and --cpu-processes exclude each other.", "Give one of them.")
    if accelerate_config is not None:
        given = {"--gpus": gpus, "--cpu-processes": cpu_processes, "--nodes": nodes}
        doubled = [name for name, value in given.items() if value is not None]
        if doubled:
            raise InputError(f"--accelerate-config and {doubled[0]} exclude each other.", "Give one of them.")
        gpus, cpu_processes, nodes, rank, address = _accelerate(accelerate_config)
        node_rank = rank if node_rank is None else node_rank
        main_address = main_address or address
    if nodes is None and (node_rank is not None or main_address is not None) and accelerate_config is None:
        raise InputError("--node-rank and --main-address say where one of several nodes is.", "Give --nodes too.")
    if gpus is not None:
        check_gpus(gpus)
    return Launch(
        processes=gpus or cpu_processes or 1,
        cpu=cpu_processes is not None,
        nodes=nodes or 1,
        node_rank=node_rank or 0,
        main_address=None if main_address is None else parse_address(main_address),
        deadline=None if time_limit is None else time.time() + seconds_of(time_limit),
        trackers=None if tracker is None else _trackers(tracker),
    )


def seconds_of(text: str) -> float:
    """Seconds of 90m, 11.5h, 2d, 45s, HH:MM or HH:MM:SS.

    Raises:
        InputError: it is none of these, or no time at all.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip()):
        seconds = float(match.group(1)) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match.group(2)]
    elif match := re.fullmatch(r"(\d+):([0-5]\d)(?::([0-5]\d))?", text.strip()):
        hours, minutes, rest = (int(part or 0) for part in match.groups())
        seconds = float(hours * 3600 + minutes * 60 + rest)
    else:
        seconds = 0.0
    if not seconds:
        raise InputError(f"--time-limit {text} is no time.", "Give for example 90m, 11.5h, 2d or 11:30:00.")
    return seconds


def _trackers(names: list[str]) -> tuple[str, ...]:
    if "none" in names:
        if len(names) > 1:
            raise InputError("--tracker none excludes all others.", "Leave it away, or the others.")
        return ()
    from gcbench.training.trackers import tracker_names

    return tracker_names(names)


def _accelerate(path: Path) -> tuple[int | None, int | None, int, int, str | None]:
    """GPUs, processes on the CPU, nodes, rank of this one and main address, of a file of `accelerate config`."""
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file

    file = Path(default_config_file) if str(path) == "default" else path
    if not file.is_file():
        raise InputError(f"There is no file {file}.", "Make one with `accelerate config`, or name another.")
    try:
        config = load_config_from_file(str(file))
        kind = str(getattr(config.distributed_type, "value", config.distributed_type))
        nodes, processes = int(config.num_machines), int(config.num_processes)
        rank, host, port = int(config.machine_rank), config.main_process_ip, config.main_process_port
        on_cpu = bool(config.use_cpu) or kind == "MULTI_CPU"
    except Exception as error:  # yaml, and whatever accelerate does with odd values
        raise InputError(
            f"{file} is no configuration of accelerate: {error}", "Make it with `accelerate config`."
        ) from error
    if kind not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise InputError(
            f"{file} asks for {kind}, which this training does not use.",
            "Choose multi-GPU or CPU in `accelerate config`.",
        )
    if nodes < 1 or processes < 1 or processes % nodes:
        raise InputError(
            f"{file} has {processes} processes for {nodes} nodes.",
            "Give num_processes, as many for each of num_machines.",
        )
    each = processes // nodes
    address = f"{host}:{port or 29500}" if host else None
    if on_cpu:
        return None, each, nodes, rank, address
    gpus = None if kind == "NO" and each == 1 else each  # one process takes what there is, as without the file
    return gpus, None, nodes, rank, address
