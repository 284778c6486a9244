"""The splatting engine on CUDA: one call of gsplat 1.5.3 for all views and channels. The only importer of gsplat.

What 1.5.3 does decides how it is called (read from its `rendering.py`, `_wrapper.py` and CUDA sources):

- Its kernels take 1 to 5, 8, 9, 16, 17, 32, 33, 64, ... channels, pad others with zeros, and run through more than 32
  in chunks. 3 colours, F = 32 features and the depth are 36 channels: a chunk of 32 and one of 4, neither padded. One
  chunk of 64 would hold three 64-wide arrays per pixel in registers in the backward pass.
- `RGB+D` appends the depth sum z alpha T as the last channel, with a gradient to the means.
- A packed call asserts one background for all views, so the colour behind is added here, from alpha.
- A packed projection takes the opacities of the first batch for every batch; calls here have no batch dimension.
- No Gaussian at all divides by zero on the host and ends the process, so that case does not reach it.
- Cameras enter by W mu + t and W Sigma W^T alone, so mirrored ones are right; they are inverted only for spherical
  harmonics, which are not used. Kernels read float32 only.

Shape legend
    G  Gaussians      V  views      H, W  pixels      F  channels of a Gaussian's feature
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from gcbench.errors import InputError, MissingExtraError, RunError, require
from gcbench.splatting.interface import EPS2D, FAR, NEAR, RenderedViews
from gcbench.structures import Gaussians

VERSION = "1.5.3"  # 1.6 changes constants that decide pixels
_EXTRA = "cu126"
_SHOWN_LINES = 5


def rasterize(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
    *,
    packed: bool = False,
) -> RenderedViews:
    """Render as `interface.render` says, in float32 whatever the inputs' type; they have been checked there.

    Args:
        gaussians: G Gaussians on a CUDA device.
        viewmats: [V, 4, 4] world-to-camera, OpenCV axes, mirrored or not.
        Ks: [V, 3, 3], pixels.
        width: W.
        height: H.
        background: [3] colour behind everything; black if None.
        packed: keep only the (view, Gaussian) combinations that are seen. The same images with less memory where a
            view sees a small part, for slower gathers; False holds V G (4 + F) channels several times over.

    Raises:
        InputError: the Gaussians are not on a CUDA device.
        MissingExtraError: gsplat is not installed, or in another version.
        RunError: gsplat could not compile its kernels.
    """
    _need_cuda(gaussians.means.device)
    if len(gaussians) == 0 or len(viewmats) == 0:
        return _nothing(gaussians, len(viewmats), width, height, background)
    with torch.autocast(gaussians.means.device.type, enabled=False):
        image, alphas, _ = load()(
            means=gaussians.means.float(),
            quats=gaussians.quats.float(),
            scales=gaussians.scales.float(),
            opacities=gaussians.opacities.float().contiguous(),
            colors=torch.cat((gaussians.colors.float(), gaussians.features.float()), dim=1),
            viewmats=viewmats.detach().to(gaussians.means.device, torch.float32),
            Ks=Ks.detach().to(gaussians.means.device, torch.float32),
            width=width,
            height=height,
            near_plane=NEAR,
            far_plane=FAR,
            radius_clip=0.0,
            eps2d=EPS2D,
            packed=packed,
            render_mode="RGB+D",
            rasterize_mode="classic",
        )
        alphas = alphas[..., 0]
        colors = image[..., :3]
        if background is not None:
            colors = colors + (1.0 - alphas)[..., None] * background.to(colors)
    return RenderedViews(colors, image[..., -1], image[..., 3:-1], alphas)


@functools.cache
def load() -> Callable[..., Any]:
    """gsplat's `rasterization`, its kernels compiled: some minutes at the first use on a machine, then at once.

    Processes that start together wait for one another: gsplat removes a build that it finds unfinished.

    Raises:
        MissingExtraError: gsplat is not installed, or in another version.
        RunError: the kernels could not be compiled; shows the compiler's own words.
    """
    gsplat = require("gsplat", _EXTRA, "Splatting on CUDA")
    found = str(gsplat.__version__)
    if found.partition("+")[0] != VERSION:
        raise MissingExtraError(
            f"gsplat is installed in version {found}; only {VERSION} renders what the CPU engine renders.",
            f"Install it with: pip install 'gsplat=={VERSION}'",
        )
    from filelock import FileLock
    from platformdirs import user_cache_path

    lock = user_cache_path("gcbench", ensure_exists=True) / "gsplat-build.lock"
    try:
        with FileLock(lock):
            compiled = importlib.import_module("gsplat.cuda._backend")._C
    except Exception as error:  # a compiler, ninja or the loader failed, each with its own kind of error
        raise _not_compiled(_compiler_words(error)) from error
    if compiled is None:
        raise _not_compiled(["No CUDA toolkit was found: neither CUDA_HOME nor nvcc on PATH."])
    rasterization: Callable[..., Any] = gsplat.rasterization
    return rasterization


def _need_cuda(device: torch.device) -> None:
    if device.type != "cuda":
        raise InputError(
            f"gsplat renders on CUDA, but the Gaussians are on '{device}'.",
            "Move them to a GPU, or choose the backend 'auto'.",
        )


def _nothing(gaussians: Gaussians, views: int, width: int, height: int, background: Tensor | None) -> RenderedViews:
    """What V cameras see of no Gaussian, still with a gradient (of zero) to all six fields."""
    fields = (getattr(gaussians, name) for name in gaussians.__dataclass_fields__)
    zero = 0.0 * torch.stack([field.float().sum() for field in fields]).sum()
    empty = zero.expand(views, height, width)
    colors = empty[..., None].expand(-1, -1, -1, 3)
    if background is not None:
        colors = colors + background.to(colors)
    return RenderedViews(colors, empty, empty[..., None].expand(-1, -1, -1, gaussians.features.shape[1]), empty)


def _not_compiled(words: list[str]) -> RunError:
    return RunError(
        "gsplat could not compile its CUDA kernels: " + "\n  ".join(words),
        "Its first use needs nvcc of the CUDA version that torch was built for"
        f" ({torch.version.cuda or 'this torch is a CPU build'}), a C++ compiler that this nvcc accepts, and ninja;"
        " set CUDA_HOME to that toolkit, then run `gcbench doctor`. The CPU engine needs none of it.",
    )


def _compiler_words(error: BaseException) -> list[str]:
    """The last lines that say what was wrong, of the error in the chain that knows most."""
    chain = list(_chain(error))
    told = next((e for e in chain if isinstance(e, RuntimeError | OSError)), chain[0])
    lines = [line.strip() for line in str(told).splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"\berror:", line, re.IGNORECASE)]
    return (wrong or lines or [type(told).__name__])[-_SHOWN_LINES:]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
