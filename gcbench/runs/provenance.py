"""Gathers what a result must say about its origin: versions, hardware, git state, time, memory. Imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from gcbench import __version__
from gcbench.runs.results import Provenance

# the libraries whose version can change a number
LIBRARIES = (
    "numpy",
    "scipy",
    "torch",
    "spconv",
    "spconv-cu120",
    "spconv-cu124",
    "spconv-cu126",
    "cumm",
    "numba",
    "gsplat",
    "torch-scatter",
    "accelerate",
    "transformers",
    "datasets",
    "pyarrow",
    "pillow",
)
_PACKAGE = Path(__file__).resolve().parents[1]
_SECONDS = 10  # a query of git or of the driver that takes longer is given up


def collect_provenance(
    *,
    recipe: str,
    recipe_hash: str,
    resolved_recipe: Mapping[str, Any],
    preset: str | None,
    data_fingerprint: str,
    synthetic: bool,
    started: datetime,
    weights_hash: str | None = None,
    peak_memory_mb: float | None = None,
) -> Provenance:
    """The provenance of a result that is finished now.

    Args:
        started: when the job began, with a time zone.
        peak_memory_mb: of the accelerator, where one was used; else the process's own peak is taken.

    Raises:
        ValueError: `started` has no time zone.
    """
    if started.tzinfo is None:
        raise ValueError("`started` needs a time zone: use datetime.now(timezone.utc)")
    ended = datetime.now(timezone.utc)
    commit, dirty = git_state()
    return Provenance(
        recipe=recipe,
        recipe_hash=recipe_hash,
        resolved_recipe=dict(resolved_recipe),
        preset=preset,
        data_fingerprint=data_fingerprint,
        synthetic=synthetic,
        git_commit=commit,
        git_dirty=dirty,
        versions=library_versions(),
        hardware=hardware(),
        wall_seconds=(ended - started).total_seconds(),
        peak_memory_mb=process_peak_memory_mb() if peak_memory_mb is None else peak_memory_mb,
        weights_hash=weights_hash,
        started=started.astimezone(timezone.utc),
        ended=ended,
    )


def library_versions() -> dict[str, str]:
    """Versions of Python, gcbench and the installed ones of `LIBRARIES`."""
    found = {name: _version(name) for name in LIBRARIES}
    installed = {name: version for name, version in found.items() if version is not None}
    return {"python": platform.python_version(), "gcbench": __version__, **installed}


def hardware() -> dict[str, str]:
    """Processor, usable cores, memory, system and accelerators (never a host name)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = {"processor": _processor(), "cores": str(cores), "system": f"{platform.system()} {platform.machine()}"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f}"
    accelerators = _query("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    if accelerators:
        found["accelerators"] = "; ".join(accelerators.splitlines())
    return found


def process_peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MB (0 where the system does not tell)."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def git_state(package: Path = _PACKAGE) -> tuple[str | None, bool | None]:
    """Commit and "has local changes" of the checkout that gcbench runs from; (None, None) when it is installed.

    A repository that only happens to lie around an installed gcbench is not taken: gcbench must be tracked in it.
    """
    folder = str(package)
    if _query("git", "-C", folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    commit = _query("git", "-C", folder, "rev-parse", "HEAD")
    changes = _query("git", "-C", folder, "status", "--porcelain", "--untracked-files=no", "--", ":/")
    return commit, None if changes is None else bool(changes)


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _query(program: str, *arguments: str) -> str | None:
    executable = shutil.which(program)
    if executable is None:
        return None
    try:
        answer = subprocess.run([executable, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
