"""The call of gsplat 1.5.3: its arguments against that version's signature, its images on a GPU.

Without a GPU a stand-in takes gsplat's place: it has 1.5.3's signature, makes the same assertions on shapes and types,
and renders with the reference engine, so a wrong argument, channel or background shows in the image.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from gcbench.errors import InputError, MissingExtraError, RunError
from gcbench.splatting import RenderedViews, gsplat_backend, reference, render
from gcbench.structures import Gaussians
from tests.splatting.scenes import FIELDS, cloud, look, with_gradient

# gsplat 1.5.3, gsplat/rendering.py: names in order, and defaults; all may be given by position or by name
REQUIRED = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "width", "height")
OPTIONAL: dict[str, Any] = {
    "near_plane": 0.01,
    "far_plane": 1e10,
    "radius_clip": 0.0,
    "eps2d": 0.3,
    "sh_degree": None,
    "packed": True,
    "tile_size": 16,
    "backgrounds": None,
    "render_mode": "RGB",
    "sparse_grad": False,
    "absgrad": False,
    "rasterize_mode": "classic",
    "channel_chunk": 32,
    "distributed": False,
    "camera_model": "pinhole",
    "segmented": False,
    "covars": None,
    "with_ut": False,
    "with_eval3d": False,
    "radial_coeffs": None,
    "tangential_coeffs": None,
    "thin_prism_coeffs": None,
    "ftheta_coeffs": None,
    "rolling_shutter": "GLOBAL",
    "viewmats_rs": None,
}
_BY_NAME = inspect.Parameter.POSITIONAL_OR_KEYWORD
SIGNATURE = inspect.Signature(
    [inspect.Parameter(name, _BY_NAME) for name in REQUIRED]
    + [inspect.Parameter(name, _BY_NAME, default=default) for name, default in OPTIONAL.items()]
)
# The conventions of the reference engine: an image at any other value would differ from it.
FIXED = ("near_plane", "far_plane", "radius_clip", "eps2d", "tile_size", "sh_degree", "rasterize_mode", "camera_model")

COMPILER_OUTPUT = """Error building extension 'gsplat_cuda': [1/30] /usr/local/cuda/bin/nvcc -DTORCH_API_INCLUDE
FAILED: ProjectionUT3DGSFused.cuda.o
/usr/include/c++/14/bits/stl.h(12): error: identifier "__builtin" is undefined
/usr/include/c++/14/bits/stl.h(20): error: expected a ";"
2 errors detected in the compilation of "ProjectionUT3DGSFused.cu".
ninja: build stopped: subcommand failed.
"""


class StandIn:
    """gsplat 1.5.3's `rasterization` as a shell around the reference engine; keeps the arguments of its last call."""

    def __init__(self) -> None:
        self.last: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
        bound = SIGNATURE.bind(*args, **kwargs)
        bound.apply_defaults()
        self.last = given = bound.arguments
        means, viewmats, colors = given["means"], given["viewmats"], given["colors"]
        count, views = len(means), len(viewmats)
        shapes = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
        shapes |= {"colors": (count, colors.shape[1]), "viewmats": (views, 4, 4), "Ks": (views, 3, 3)}
        for name, shape in shapes.items():
            assert given[name].shape == shape
            assert given[name].dtype == torch.float32  # its kernels read float32 whatever they are given
        assert count > 0, "1.5.3 divides by the number of Gaussians on the host"
        assert given["render_mode"] in ("RGB", "D", "ED", "RGB+D", "RGB+ED")
        assert {name: given[name] for name in FIXED} == {name: OPTIONAL[name] for name in FIXED}
        if given["packed"]:
            assert given["backgrounds"] is None, "1.5.3 asserts a shape [channels] here that it never has"
        channels = Gaussians(
            means, given["quats"], given["scales"], given["opacities"], colors.new_zeros(count, 3), colors
        )
        rendered = reference.rasterize(channels, viewmats, given["Ks"], given["width"], given["height"], None)
        image, alphas = rendered.features, rendered.alphas[..., None]
        if given["backgrounds"] is not None:
            assert given["backgrounds"].shape == (views, colors.shape[1])
            image = image + (1 - alphas) * given["backgrounds"][:, None, None]
        depths = rendered.depths[..., None]
        if given["render_mode"].endswith("ED"):
            depths = depths / alphas.clamp(min=1e-10)
        if given["render_mode"].startswith("RGB"):
            image = torch.cat((image, depths), dim=-1) if "D" in given["render_mode"] else image
        else:
            image = depths
        return image, alphas, {}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gsplat_backend.load.cache_clear()
    yield
    gsplat_backend.load.cache_clear()


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """gsplat replaced, and the demand for a GPU taken back."""
    install(monkeypatch, version="1.5.3", compiled=object())
    monkeypatch.setattr(gsplat_backend, "_need_cuda", lambda device: None)
    return sys.modules["gsplat"].rasterization  # type: ignore[no-any-return]


def install(monkeypatch: pytest.MonkeyPatch, *, version: str, compiled: object) -> None:
    gsplat, cuda, backend = (ModuleType(name) for name in ("gsplat", "gsplat.cuda", "gsplat.cuda._backend"))
    gsplat.__version__ = version  # type: ignore[attr-defined]
    gsplat.rasterization = StandIn()  # type: ignore[attr-defined]
    backend._C = compiled  # type: ignore[attr-defined]
    for module in (gsplat, cuda, backend):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def gradients(gaussians: Gaussians, rendered: RenderedViews) -> dict[str, Tensor]:
    """Of a sum that weights every channel and pixel differently."""
    draw = torch.Generator().manual_seed(5)
    total = torch.zeros((), device=rendered.colors.device)
    for name in ("colors", "depths", "features", "alphas"):
        image = getattr(rendered, name)
        total = total + (image * torch.randn(image.shape, generator=draw).to(image)).sum()
    leaves = [getattr(gaussians, name) for name in FIELDS]
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return dict(zip(FIELDS, found, strict=True))


def mirrored(viewmats: Tensor) -> Tensor:
    """Cameras of a scene flipped along x: the 3 x 3 part has determinant -1."""
    flip = torch.diag(viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    return viewmats @ flip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("background", [None, [0.2, 0.5, 0.9]])
@pytest.mark.parametrize("features", [0, 5, 32])
def test_images_and_gradients_are_the_reference_engine_s(
    stand_in: StandIn, features: int, background: list[float] | None, packed: bool
) -> None:
    behind = None if background is None else torch.tensor(background)
    gaussians = with_gradient(cloud(20, features=features, dtype=torch.float32))
    viewmats, Ks = look(21, 18, views=3, dtype=torch.float32)
    viewmats = torch.cat((viewmats[:2], mirrored(viewmats[2:])))
    found = gsplat_backend.rasterize(gaussians, viewmats, Ks, 21, 18, behind, packed=packed)
    expected = reference.rasterize(gaussians, viewmats, Ks, 21, 18, behind)
    assert stand_in.last["packed"] is packed
    for name in ("colors", "depths", "features", "alphas"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    wanted = gradients(gaussians, expected)
    for name, gradient in gradients(gaussians, found).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-4, msg=name)


def test_32_features_take_one_full_chunk_and_one_of_4(stand_in: StandIn) -> None:
    gsplat_backend.rasterize(cloud(3, features=32), *look(8, 8), 8, 8, None)
    channels = stand_in.last["colors"].shape[1] + 1  # the depth
    assert divmod(channels, stand_in.last["channel_chunk"]) == (1, 4)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_types_are_rendered_in_float32(stand_in: StandIn, kind: torch.dtype) -> None:
    gaussians = with_gradient(Gaussians(*(getattr(cloud(6), name).to(kind) for name in FIELDS)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gsplat_backend.rasterize(gaussians, *look(9, 9), 9, 9, torch.ones(3, dtype=kind))
    assert {getattr(found, name).dtype for name in found.__dataclass_fields__} == {torch.float32}
    assert {gradient.dtype for gradient in gradients(gaussians, found).values()} == {kind}


@pytest.mark.parametrize(("count", "views"), [(0, 2), (4, 0), (0, 0)])
def test_no_gaussian_or_no_view_never_reaches_gsplat(stand_in: StandIn, count: int, views: int) -> None:
    gaussians = with_gradient(cloud(count, features=4, dtype=torch.float32))
    viewmats, Ks = (tensor[:views] for tensor in look(6, 5, views=2, dtype=torch.float32))
    behind = torch.tensor([0.1, 0.2, 0.3])
    found = gsplat_backend.rasterize(gaussians, viewmats, Ks, 6, 5, behind)
    assert stand_in.last == {}
    assert found.features.shape == (views, 5, 6, 4)
    assert torch.equal(found.colors, behind.expand(views, 5, 6, 3))
    assert not found.depths.any() and not found.alphas.any()
    assert all(not gradient.any() for gradient in gradients(gaussians, found).values())


def test_a_view_that_sees_nothing_is_the_background(stand_in: StandIn) -> None:
    gaussians = with_gradient(cloud(5, dtype=torch.float32))
    viewmats, Ks = look(6, 5, dtype=torch.float32)
    viewmats[:, 2, 3] = -50.0  # all of it lies behind the camera
    found = gsplat_backend.rasterize(gaussians, viewmats, Ks, 6, 5, torch.ones(3))
    assert torch.equal(found.colors, torch.ones(1, 5, 6, 3))
    assert all(not gradient.any() for gradient in gradients(gaussians, found).values())


def test_cameras_get_no_gradient(stand_in: StandIn) -> None:
    viewmats, Ks = (tensor.float().requires_grad_() for tensor in look(6, 5))
    gaussians = with_gradient(cloud(5, dtype=torch.float32))
    gsplat_backend.rasterize(gaussians, viewmats, Ks, 6, 5, None).colors.sum().backward()
    assert viewmats.grad is None and Ks.grad is None and gaussians.means.grad is not None


def test_gaussians_on_the_cpu_are_refused() -> None:
    with pytest.raises(InputError, match="gsplat renders on CUDA, but the Gaussians are on 'cpu'"):
        gsplat_backend.rasterize(cloud(2), *look(4, 4), 4, 4, None)


def test_without_gsplat_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gcbench\[cu126\]'"):
        gsplat_backend.load()


@pytest.mark.parametrize("version", ["1.5.2", "1.6.0", "1.5.30"])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version=version, compiled=object())
    with pytest.raises(MissingExtraError, match=rf"version {version}; only 1\.5\.3 .*'gsplat==1\.5\.3'"):
        gsplat_backend.load()


def test_a_build_of_the_version_for_one_torch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version="1.5.3+pt24cu124", compiled=object())
    assert gsplat_backend.load() is sys.modules["gsplat"].rasterization


def test_without_a_toolkit_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, version="1.5.3", compiled=None)
    with pytest.raises(RunError, match=r"No CUDA toolkit was found.*CUDA_HOME"):
        gsplat_backend.load()


@pytest.mark.parametrize(
    ("fault", "shown", "hidden"),
    [
        (f"raise RuntimeError({COMPILER_OUTPUT!r})", 'error: expected a ";"', "nvcc -DTORCH"),
        (
            "raise RuntimeError('The detected CUDA version (11.8) mismatches')",
            "version (11.8) mismatches",
            "ImportError",
        ),
        (
            "try:\n    raise OSError('CUDA_HOME environment variable is not set.')\n"
            "except OSError:\n    raise ImportError('gsplat_cuda.so: no such file')",
            "CUDA_HOME environment variable is not set.",
            "no such file",
        ),
    ],
)
def test_what_the_compiler_said_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, shown: str, hidden: str
) -> None:
    package = tmp_path / "gsplat"
    (package / "cuda").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '1.5.3'\nrasterization = print\n")
    (package / "cuda" / "__init__.py").touch()
    (package / "cuda" / "_backend.py").write_text(fault + "\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with pytest.raises(RunError) as error:
            gsplat_backend.load()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "gsplat"]:
            del sys.modules[name]
    assert shown in error.value.message and hidden not in error.value.message
    assert "nvcc of the CUDA version" in error.value.way_out


def flipped(found: Tensor, expected: Tensor) -> float:
    """Share of pixels [V, H, W] where a threshold (1/255, the end of a pixel) fell on the other side."""
    difference = (found - expected).abs()
    return float((difference if difference.ndim == 3 else difference.amax(dim=-1)).gt(2e-3).float().mean())


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_gsplat_and_the_cpu_engine_agree(packed: bool, flip: bool) -> None:
    gaussians = with_gradient(cloud(3000, scale=0.05, features=32, dtype=torch.float32))
    on_gpu = with_gradient(gaussians.to("cuda"))
    viewmats, Ks = look(96, 72, views=5, dtype=torch.float32)
    viewmats = mirrored(viewmats) if flip else viewmats
    behind = torch.tensor([0.2, 0.5, 0.9])
    expected = render(gaussians, viewmats, Ks, 96, 72, background=behind)
    found = gsplat_backend.rasterize(on_gpu, viewmats, Ks, 96, 72, behind.cuda(), packed=packed)
    for name in ("colors", "depths", "features", "alphas"):
        image, wanted = getattr(found, name).cpu(), getattr(expected, name)
        assert float((image - wanted).abs().mean()) < 1e-4, name  # its exponential and logarithm are the fast ones
        assert flipped(image, wanted) < 5e-3, name
    wanted_gradients = gradients(gaussians, expected)
    for name, gradient in gradients(on_gpu, found).items():
        wanted = wanted_gradients[name]
        error = (gradient.cpu() - wanted).abs().sum() / wanted.abs().sum()
        assert float(error) < 2e-2, name  # it takes the transmittance from alpha in float32, which loses digits


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True])
def test_on_a_gpu_nothing_to_see_has_zero_gradients(packed: bool) -> None:
    viewmats, Ks = look(20, 20, views=2, dtype=torch.float32)
    for gaussians in (cloud(0, features=3, dtype=torch.float32), cloud(50, features=3, dtype=torch.float32)):
        leaves = with_gradient(replace(gaussians, means=gaussians.means - 50.0).to("cuda"))
        found = gsplat_backend.rasterize(leaves, viewmats, Ks, 20, 20, None, packed=packed)
        assert not found.colors.any() and not found.depths.any()
        assert all(not gradient.any() for gradient in gradients(leaves, found).values())
