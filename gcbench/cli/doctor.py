"""`gcbench doctor`: what is installed, what the machine has, and one executed pass of each engine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement

from gcbench.cli.engine_checks import CHECKS, Check, run_check

MIN_SHARED_MEMORY = 2**30  # bytes; a container's default of 64 MiB kills loader workers with a bus error
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (measured, never written to)
_OWN_ROW = ("cpu", "cu120", "cu126", "dev")  # extras that the engines' rows speak of, or that only developers need
_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False) -> None:
    """Check the installation: versions, devices, and one forward and backward pass of each engine.

    The exit code is 1 if something that is installed does not work. What is optional and not installed is only listed.
    """
    groups = {
        "Packages": check_packages(installed_requirements()),
        "Machine": check_machine(),
        "Engines": [run_check(name) for name in CHECKS],
    }
    failed = any(check.status == "failed" for checks in groups.values() for check in checks)
    if as_json:
        report = {title.lower(): [asdict(check) for check in checks] for title, checks in groups.items()}
        typer.echo(json.dumps({"ok": not failed, **report}, indent=2))
    else:
        _print(groups)
    raise typer.Exit(int(failed))


def installed_requirements() -> list[Requirement] | None:
    """What gcbench's own metadata asks for; None where it runs from a folder without being installed."""
    try:
        return [Requirement(text) for text in importlib.metadata.requires("gcbench") or ()]
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(requirements: Iterable[Requirement] | None) -> list[Check]:
    """Compare what is installed with the requirements: the base ones must be met, an extra's may be absent."""
    checks = [Check("python", "ok", f"{platform.python_version()} ({sys.executable})")]
    if requirements is None:
        advice = "Install the folder you are in: pip install -e '.[cpu]' -c constraints.txt"
        return [*checks, Check("gcbench", "note", "runs from a folder, not from an installation", advice)]
    absent: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = _extra(requirement)
        if extra in _OWN_ROW:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            if extra:
                absent.setdefault(extra, []).append(requirement.name)
            else:
                checks.append(Check(requirement.name, "failed", "not installed", _reinstall(requirement)))
            continue
        if requirement.specifier.contains(version, prereleases=True):
            checks.append(Check(requirement.name, "ok", version))
        else:
            detail = f"{version}, but {requirement.specifier} is needed"
            checks.append(Check(requirement.name, "failed", detail, _reinstall(requirement)))
    return checks + [
        Check(f"extra '{extra}'", "note", f"not installed: {', '.join(names)}", f"pip install 'gcbench[{extra}]'")
        for extra, names in absent.items()
    ]


def _extra(requirement: Requirement) -> str:
    """The extra that a requirement belongs to; empty for a base requirement."""
    text = str(requirement.marker or "")
    return text.rpartition('extra == "')[2].partition('"')[0] if 'extra == "' in text else ""


def _reinstall(requirement: Requirement) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


def check_machine() -> list[Check]:
    """Cores, memory, shared memory and compilers, without importing a heavy library."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    checks = [
        Check("system", "ok", platform.platform()),
        Check("CPU", "ok", f"{cores} cores, {memory / 2**30:.0f} GiB of memory"),
    ]
    shared = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else 0
    size = f"{shared / 2**30:.1f} GiB free"
    if shared >= MIN_SHARED_MEMORY:
        checks.append(Check("shared memory", "ok", size))
    else:
        advice = "Loader workers need 1 GiB: give a container more (--shm-size=8g), or load without workers."
        checks.append(Check("shared memory", "note", size, advice))
    for name, commands in {"C++ compiler": ("c++", "g++", "clang++"), "CUDA compiler": ("nvcc",)}.items():
        path = next((found for found in map(shutil.which, commands) if found), None)
        if path:
            checks.append(Check(name, "ok", path))
        else:
            checks.append(Check(name, "note", "not on PATH", "Only gsplat (on CUDA) and torch-scatter need it."))
    return checks


def _print(groups: Mapping[str, Iterable[Check]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, checks in groups.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
        )
        for column in ("status", "name", "detail"):
            table.add_column(column, overflow="fold", no_wrap=column != "detail")
        for check in checks:
            detail = Text(check.detail)
            if check.advice and check.status != "ok":
                detail.append(f"\n{check.advice}", style="dim")
            table.add_row(Text(check.status, style=_STYLES[check.status]), Text(check.name), detail)
        console.print(table)
        console.print()
