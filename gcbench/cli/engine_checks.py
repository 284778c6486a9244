"""One executed forward and backward pass of each engine, in a process of its own.

`gcbench doctor` starts `python -m gcbench.cli.engine_checks NAME` for each check, so a library that aborts the process,
or never comes back, is a reported failure. The process prints the `Check` as JSON on its last line.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from gcbench.errors import MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor

Status = Literal["ok", "note", "failed"]
TIME_LIMIT = 900  # seconds; the first use of gsplat compiles its CUDA kernels for some minutes
CUDA_TOLERANCE = 1e-2  # spconv's CUDA sums differ from call to call by up to this, relative to the largest value


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was checked.
        status: `note` is something optional that is not there; only `failed` makes `gcbench doctor` fail.
        detail: a version, a size, or what went wrong.
        advice: the way out, in one line; empty if all is well.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""


class _AbsentError(Exception):
    """Something optional is not there."""


def run_check(name: str, time_limit: float = TIME_LIMIT) -> Check:
    """Run one check of `CHECKS` in a process of its own; never raises for what the libraries do."""
    title, _, advice = CHECKS[name]
    command = [sys.executable, "-m", "gcbench.cli.engine_checks", name]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=time_limit)
    except subprocess.TimeoutExpired:
        return Check(title, "failed", f"no answer within {time_limit:g} s", advice)
    if process.returncode != 0:
        end = f"exit code {process.returncode}"
        if process.returncode < 0:
            end = f"the process was ended by {signal.Signals(-process.returncode).name}"
        last_words = (process.stderr.strip().splitlines() or [""])[-1]
        return Check(title, "failed", f"{end}; {last_words}".removesuffix("; "), advice)
    return Check(**json.loads(process.stdout.splitlines()[-1]))


def perform(name: str) -> Check:
    """Run one check of `CHECKS` in this process; every exception becomes a `Check`."""
    title, function, advice = CHECKS[name]
    try:
        return Check(title, "ok", function())
    except _AbsentError as error:
        return Check(title, "note", *error.args)
    except Exception as error:  # a broken library may raise anything, and reporting it is this module's purpose
        if isinstance(error, MissingExtraError) and _is_absent(error.__cause__):
            return Check(title, "note", error.message, error.way_out)
        first_line = (str(error).splitlines() or [""])[0]
        return Check(title, "failed", f"{type(error).__name__}: {first_line}", advice)


def _torch() -> str:
    import torch

    x = torch.ones(2, 2, requires_grad=True)
    (x @ x).sum().backward()
    _expect("the gradient of a product", x.grad, torch.full((2, 2), 4.0))
    cuda = torch.version.cuda
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, " + (f"CUDA {cuda}" if cuda else "CPU build")


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        raise _AbsentError("no CUDA GPU that torch can use; the CPU engines are used", "")
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)


def _sparse_cpu() -> str:
    import torch

    first, second = _sparse_unet("cpu"), _sparse_unet("cpu")
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        raise ArithmeticError("two equal runs gave different numbers")
    return f"forward and backward, the same bits twice, {torch.get_num_threads()} threads"


def _sparse_cuda() -> str:
    _need_gpu()
    if not any(_installed(name) for name in ("spconv-cu120", "spconv-cu126")):
        raise _AbsentError(
            "spconv for CUDA is not installed", "pip uninstall spconv cumm, then: pip install 'gcbench[cu126]'"
        )
    for on_gpu, on_cpu in zip(_sparse_unet("cuda"), _sparse_unet("cpu"), strict=True):
        _expect("CUDA against CPU", on_gpu.cpu(), on_cpu, CUDA_TOLERANCE * float(on_cpu.abs().max()))
    return "forward and backward, equal to the CPU engine"


def _splatting_cuda() -> str:
    _need_gpu()
    if importlib.util.find_spec("gsplat") is None:
        raise _AbsentError("gsplat is not installed", "Install it with: pip install 'gcbench[cu126]'")
    return _splatting("cuda")


def _sparse_unet(device: str) -> tuple[Tensor, Tensor]:
    """Features and one weight gradient of a small network on a half-full 12 x 12 x 12 grid, always the same one."""
    import torch

    from gcbench.models.sparse_unet import SparseUNet
    from gcbench.structures import PointBatch

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    grid = torch.nonzero(torch.rand(12, 12, 12, generator=generator) < 0.5).int()
    feat = torch.randn(len(grid), 6, generator=generator)
    batch = PointBatch(grid * 0.02, grid, feat, torch.tensor([len(grid)])).to(device)
    network = SparseUNet(in_channels=6, base_channels=8, channels=(8, 8, 8, 8), layers=(1, 1, 1, 1)).to(device)
    features = network(batch)
    features.square().mean().backward()
    gradient = next(network.parameters()).grad
    assert gradient is not None
    if not (torch.isfinite(features).all() and torch.isfinite(gradient).all()):
        raise ArithmeticError("the result is not finite")
    return features.detach(), gradient


def _splatting(device: str) -> str:
    """Two Gaussians one behind the other over the centre of one pixel: Eq. 1-3 by hand."""
    import torch

    from gcbench.splatting.interface import render
    from gcbench.structures import Gaussians

    near, far = 0.5, 0.25  # opacities, at depths 1 and 2
    opacities = torch.tensor([near, far], device=device, requires_grad=True)
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]], device=device),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2, device=device),
        scales=torch.full((2, 3), 0.1, device=device),
        opacities=opacities,
        colors=torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], device=device),
        features=torch.ones(2, 4, device=device),
    )
    viewmats = torch.eye(4, device=device)[None]
    Ks = torch.tensor([[[16.0, 0.0, 8.5], [0.0, 16.0, 8.5], [0.0, 0.0, 1.0]]], device=device)
    views = render(gaussians, viewmats, Ks, 17, 17)
    color, depth = views.colors[0, 8, 8], views.depths[0, 8, 8]
    _expect("the colour", color, torch.tensor([near, (1 - near) * far, 0.0]))
    _expect("the depth", depth, torch.tensor(near + 2 * (1 - near) * far))
    depth.backward()
    _expect("the gradient", opacities.grad, torch.tensor([1 - 2 * far, 2 * (1 - near)]))
    return "forward and backward, equal to the closed form"


def _expect(what: str, found: Tensor | None, expected: Tensor, tolerance: float = 1e-4) -> None:
    if found is None or not bool(((found.detach().cpu() - expected).abs() <= tolerance).all()):
        raise ArithmeticError(f"{what} is wrong")


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise _AbsentError("no CUDA GPU", "")


def _is_absent(cause: BaseException | None) -> bool:
    """Whether an optional library is not there at all; one that is there but lacks a part of its own is broken."""
    return isinstance(cause, ModuleNotFoundError) and cause.name in ("spconv", "spconv.pytorch", "gsplat")


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# Name: (title, the check, what to do when it fails).
CHECKS: dict[str, tuple[str, Callable[[], str], str]] = {
    "torch": ("torch", _torch, "Reinstall torch in the version of constraints.txt."),
    "gpus": ("CUDA GPUs", _gpus, "Compare the driver (nvidia-smi) with the CUDA version that torch was built for."),
    "sparse-cpu": (
        "sparse convolution, CPU",
        _sparse_cpu,
        "Reinstall spconv: pip install --force-reinstall --no-deps spconv cumm, or the extra of your CUDA version.",
    ),
    "splatting-cpu": (
        "splatting, CPU",
        lambda: _splatting("cpu"),
        "Reinstall numba and llvmlite; NUMBA_CACHE_DIR must be a folder that you can write to.",
    ),
    "sparse-cuda": (
        "sparse convolution, CUDA",
        _sparse_cuda,
        "Take the extra that fits your driver (cu120: Python 3.10, 3.11; cu126: newer), one spconv only.",
    ),
    "splatting-cuda": (
        "splatting, CUDA",
        _splatting_cuda,
        "gsplat compiles at first use: nvcc of torch's CUDA version and a C++ compiler must be on PATH.",
    ),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(perform(sys.argv[1]))) + "\n")
