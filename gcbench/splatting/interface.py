"""One call for every splatting engine (Eq. 14, 15), and the constants that all engines share.

The semantics are gsplat 1.5.3's, so that a model trained on one engine renders the same on another.

Shape legend
    G  Gaussians      V  views      H, W  pixels      F  channels of a Gaussian's feature
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from gcbench.errors import InputError
from gcbench.structures import Gaussians

NEAR, FAR = 0.01, 1e10  # depths outside are culled; the bounds themselves are kept
EPS2D = 0.3  # pixels^2 added to the diagonal of every projected covariance
FIELD_OF_VIEW_MARGIN = 0.3  # share of the half field of view by which the Jacobian's clamp exceeds the image
MAX_SIGMAS = 3.33  # a splat ends at min(MAX_SIGMAS, sqrt(2 ln(opacity / MIN_ALPHA))) standard deviations
MIN_ALPHA = 1.0 / 255.0  # anything fainter is skipped
MAX_ALPHA = 0.999  # alpha is clamped here; no gradient to opacity and geometry where it is
MIN_TRANSMITTANCE = 1e-4  # a pixel ends before the splat that would bring it to this or below

Backend: TypeAlias = Literal["auto", "cpu", "gsplat", "reference"]
_ENGINES: dict[str, Backend] = {"cuda": "gsplat", "cpu": "cpu"}  # the fast one of a device; others have none


@dataclass(frozen=True)
class RenderedViews:
    """What V cameras see.

    Attributes:
        colors: [V, H, W, 3], sum of c alpha T, plus the background behind it.
        depths: [V, H, W], sum of z alpha T with the camera-space z of the means; not divided by `alphas`.
        features: [V, H, W, F], sum of f alpha T.
        alphas: [V, H, W], 1 minus the transmittance behind the last Gaussian.
    """

    colors: Tensor
    depths: Tensor
    features: Tensor
    alphas: Tensor


def render(
    gaussians: Gaussians,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    backend: Backend = "auto",
) -> RenderedViews:
    """Render colour, depth and features of G Gaussians into V views, in one pass (Eq. 1-3, 14, 15).

    Gradients reach all six fields of `gaussians` and `background` (not the cameras). Half precision is rendered in
    float32, also under autocast.

    Args:
        gaussians: G Gaussians; means in the unit of `viewmats`.
        viewmats: [V, 4, 4] world-to-camera, OpenCV axes; the 3 x 3 part is a rotation or a mirrored one.
        Ks: [V, 3, 3], pixels; pixel centres lie at + 0.5.
        width: W.
        height: H.
        background: [3] colour behind everything; black if None.
        backend: ``"gsplat"`` for CUDA tensors, ``"cpu"`` for CPU tensors, ``"reference"`` for any; ``"auto"`` takes the
            first that fits. ``"reference"`` looks at every Gaussian in every pixel, some hundred times as slow as
            ``"cpu"`` where views are small and more where they are not: good to check by, not to train with.

    Raises:
        InputError: a shape does not fit, a number is not finite, an opacity lies outside [0, 1], or the engine does not
            run on the tensors' device.
    """
    _check(gaussians, viewmats, Ks, width, height, background)
    device = gaussians.means.device.type
    with torch.autocast(device, enabled=False):
        return _engine(backend, device)(_in_one_type(gaussians), viewmats, Ks, width, height, background)


def _engine(backend: Backend, device: str) -> Callable[..., RenderedViews]:
    """The `rasterize` of an engine, imported here because each takes a while."""
    if backend == "auto":
        backend = _ENGINES.get(device, "reference")
    if backend not in (*_ENGINES.values(), "reference"):
        ways = ", ".join(f"'{name}'" for name in ("auto", *_ENGINES.values()))
        raise InputError(f"There is no splatting backend '{backend}'.", f"Choose {ways} or 'reference'.")
    if backend != "reference" and _ENGINES.get(device) != backend:
        raise InputError(
            f"The splatting backend '{backend}' does not take tensors on '{device}'.", "Choose the backend 'auto'."
        )
    if backend == "cpu":
        from gcbench.splatting.cpu_backend import rasterize
    elif backend == "gsplat":
        from gcbench.splatting.gsplat_backend import rasterize
    else:
        from gcbench.splatting.reference import rasterize
    return rasterize


def _in_one_type(gaussians: Gaussians) -> Gaussians:
    """All fields in the widest of their types, float32 at least."""
    fields = {name: getattr(gaussians, name) for name in gaussians.__dataclass_fields__}
    dtype = functools.reduce(torch.promote_types, (field.dtype for field in fields.values()), torch.float32)
    return Gaussians(**{name: field.to(dtype) for name, field in fields.items()})


def _check(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None
) -> None:
    count, views = len(gaussians), len(viewmats)
    if width < 1 or height < 1:
        raise InputError(f"A view of {width} x {height} pixels cannot be rendered.", "Give a width and height >= 1.")
    expected = {
        "means": (gaussians.means, (count, 3)),
        "quats": (gaussians.quats, (count, 4)),
        "scales": (gaussians.scales, (count, 3)),
        "opacities": (gaussians.opacities, (count,)),
        "colors": (gaussians.colors, (count, 3)),
        "features": (gaussians.features, (count, *gaussians.features.shape[1:2])),
        "viewmats": (viewmats, (views, 4, 4)),
        "Ks": (Ks, (views, 3, 3)),
    }
    if background is not None:
        expected["background"] = (background, (3,))
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape or tensor.ndim != len(shape):
            raise InputError(f"Rendering needs {name} of shape {list(shape)}, not {list(tensor.shape)}.")
        if not _finite(tensor.detach()):
            raise InputError(
                f"'{name}' has values that are not finite.", "Lower the learning rate, or check the scene's cameras."
            )
    lowest, highest = (float(bound) for bound in gaussians.opacities.detach().aminmax()) if count else (0.0, 0.0)
    if lowest < 0.0 or highest > 1.0:
        raise InputError(
            f"Opacities range from {lowest:g} to {highest:g}.",
            "They must lie in [0, 1]; apply the sigmoid first.",
        )


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite: at once where their sum is, which takes a fraction of looking at each."""
    return math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
