"""The fast CPU engine against the readable one, over any number of threads, in forked processes; laws of its sums."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.splatting import render
from gcbench.splatting.interface import Backend
from gcbench.structures import Gaussians
from tests.splatting.scenes import FIELDS, cloud, images, look, with_gradient

# Both sides are float64 and differ in the order of their sums only, over at most some hundred terms of order 1.
TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def same_threads_after() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def values_and_gradients(
    gaussians: Gaussians, cameras: tuple[Tensor, Tensor], size: tuple[int, int], backend: Backend, weight: Tensor
) -> dict[str, Tensor]:
    """The images, and the gradients of their sum weighted by `weight`, which is repeated as needed."""
    leaves = with_gradient(gaussians)
    background = torch.tensor([0.2, 0.5, 0.9], dtype=gaussians.means.dtype, requires_grad=True)
    image = images(render(leaves, *cameras, *size, background=background, backend=backend))
    weights = weight.to(image).repeat(-(-image.numel() // len(weight)))[: image.numel()]
    (image.reshape(-1) * weights).sum().backward()
    gradients = {name: getattr(leaves, name).grad for name in FIELDS}
    return {"image": image.detach(), "background": background.grad, **gradients}


def some_weights(count: int = 9973, seed: int = 1) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_equals_reference(gaussians: Gaussians, cameras: tuple[Tensor, Tensor], size: tuple[int, int]) -> Tensor:
    found = values_and_gradients(gaussians, cameras, size, "cpu", some_weights())
    expected = values_and_gradients(gaussians, cameras, size, "reference", some_weights())
    for name, wanted in expected.items():
        largest = max(float(wanted.abs().max()), 1.0) if wanted.numel() else 1.0
        torch.testing.assert_close(found[name], wanted, rtol=TOLERANCE, atol=TOLERANCE * largest, msg=name)
    return found["image"]


def changed(gaussians: Gaussians, **columns: Any) -> Gaussians:
    return replace(gaussians, **{name: torch.as_tensor(value, dtype=torch.float64) for name, value in columns.items()})


def in_one_plane(gaussians: Gaussians) -> Gaussians:
    """At equal depth for a camera that is not tilted about the axis of depth."""
    means = gaussians.means.clone()
    means[:, 1:] = torch.tensor([0.0, 0.3], dtype=torch.float64)
    return replace(gaussians, means=means)


def aside(gaussians: Gaussians) -> Gaussians:
    """Outside the image by more than the margin of the Jacobian's clamp, reaching into it."""
    means = gaussians.means.clone()
    means[::2, 0], means[1::2, 1] = -3.5, 3.2
    return replace(gaussians, means=means)


SCENES: dict[str, tuple[Gaussians, tuple[int, int], dict[str, Any]]] = {
    "odd sizes and views": (cloud(40), (19, 13), {"views": 3}),
    "several tiles": (cloud(150, scale=0.1), (70, 37), {"views": 2}),
    "several regions": (cloud(40, scale=0.2), (150, 131), {}),
    "several batches": (cloud(900, scale=0.2, seed=3), (17, 16), {}),
    "one pixel": (cloud(30, scale=0.4), (1, 1), {}),
    "opaque": (changed(cloud(60, scale=0.5), opacities=torch.ones(60)), (12, 10), {}),
    "very faint": (changed(cloud(40, scale=0.4), opacities=torch.linspace(0.5 / 255, 3 / 255, 40)), (12, 10), {}),
    "6 times as big": (replace(cloud(40, seed=2), scales=6 * cloud(40, seed=2).scales), (33, 20), {}),
    "tiny": (replace(cloud(90, seed=2), scales=0.05 * cloud(90, seed=2).scales), (33, 20), {}),
    "needles": (
        replace(cloud(40, seed=9), scales=cloud(40, seed=9).scales * torch.tensor([6, 0.01, 0.3])),
        (40, 30),
        {},
    ),
    "equal depths": (in_one_plane(cloud(30, scale=0.6, seed=4)), (12, 10), {}),
    "camera inside": (cloud(200, seed=3), (23, 19), {"distance": 0.0, "views": 4}),
    "clamped centres": (aside(cloud(24, scale=0.8, seed=6)), (14, 10), {}),
    "nothing in view": (cloud(20), (14, 10), {"distance": -9.0}),
    "no Gaussian": (cloud(0), (14, 10), {"views": 2}),
    "no feature": (cloud(30, features=0), (14, 10), {}),
    "33 features": (cloud(30, features=33), (14, 10), {}),
    "12 features": (cloud(30, features=12), (14, 10), {}),
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", SCENES)
def test_equals_the_reference(name: str, mirrored: bool) -> None:
    gaussians, size, options = SCENES[name]
    viewmats, Ks = look(*size, **options)
    if mirrored:
        viewmats = viewmats @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    image = assert_equals_reference(gaussians, (viewmats, Ks), size)
    assert bool(image[..., -1].any()) == (name not in ("nothing in view", "no Gaussian"))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 60),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    factor=st.floats(0.05, 6.0),
    distance=st.floats(-1.0, 3.0),
)
def test_equals_the_reference_anywhere(
    seed: int, count: int, width: int, height: int, factor: float, distance: float
) -> None:
    gaussians = cloud(count, seed=seed, scale=0.15 * factor)
    assert_equals_reference(gaussians, look(width, height, distance=distance), (width, height))


def test_float32_equals_the_reference_but_for_thresholds() -> None:
    gaussians, cameras = cloud(800, features=5, seed=8, dtype=torch.float32), look(64, 48, views=2, dtype=torch.float32)
    found = values_and_gradients(gaussians, cameras, (64, 48), "cpu", some_weights())
    expected = values_and_gradients(gaussians, cameras, (64, 48), "reference", some_weights())
    difference = (found["image"] - expected["image"]).abs()
    flipped = (difference > 1e-5).any(dim=-1)
    assert float(flipped.float().mean()) < 0.002 and float(difference.max()) < 2 / 255
    for name in (*FIELDS, "background"):
        distance = (found[name] - expected[name]).norm() / expected[name].norm()
        assert float(distance) < (1e-5 if not flipped.any() else 1e-3), name


def test_equal_to_the_bit_for_any_number_of_threads() -> None:
    gaussians, cameras = cloud(6000, features=7, scale=0.05, dtype=torch.float32), look(150, 90, views=2)
    runs = []
    for threads in (1, 2, 4, 2, 1):
        torch.set_num_threads(threads)
        runs.append(values_and_gradients(gaussians, cameras, (150, 90), "cpu", some_weights()))
    for run in runs[1:]:
        assert all(torch.equal(run[name], runs[0][name]) for name in runs[0])


def test_gradients_are_linear_in_the_gradient_of_the_image() -> None:
    gaussians, cameras, size = cloud(50), look(21, 18), (21, 18)
    first, second = some_weights(), some_weights(seed=2)
    parts = [values_and_gradients(gaussians, cameras, size, "cpu", weight) for weight in (first, second)]
    whole = values_and_gradients(gaussians, cameras, size, "cpu", 3 * first - second)
    for name in FIELDS:
        expected = 3 * parts[0][name] - parts[1][name]
        torch.testing.assert_close(whole[name], expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(-3.0, 3.0))
def test_images_are_linear_in_colours_and_features(seed: int, factor: float) -> None:
    first, second, cameras = cloud(30, seed=seed), cloud(30, seed=seed + 1), look(20, 14)
    both = replace(
        first,
        colors=first.colors + factor * second.colors,
        features=first.features + factor * second.features,
    )
    other = replace(first, colors=second.colors, features=second.features)
    one, two, sums = (render(g, *cameras, 20, 14) for g in (first, other, both))
    torch.testing.assert_close(sums.colors, one.colors + factor * two.colors)
    torch.testing.assert_close(sums.features, one.features + factor * two.features)
    assert torch.equal(sums.alphas, one.alphas) and torch.equal(sums.depths, one.depths)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_background_shows_through_what_is_not_covered(seed: int) -> None:
    gaussians, cameras = cloud(12, seed=seed), look(20, 14)
    behind = torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
    black, coloured = render(gaussians, *cameras, 20, 14), render(gaussians, *cameras, 20, 14, background=behind)
    torch.testing.assert_close(coloured.colors, black.colors + (1 - black.alphas)[..., None] * behind)
    torch.testing.assert_close(render(replace(gaussians, colors=torch.ones(12, 3)), *cameras, 20, 14).colors[..., 0],
                               black.alphas)  # fmt: skip


def test_only_some_outputs_and_inputs_need_a_gradient() -> None:
    gaussians, cameras = cloud(20), look(12, 9)
    leaf = gaussians.features.clone().requires_grad_()
    rendered = render(replace(gaussians, features=leaf), *cameras, 12, 9)
    rendered.features[..., 0].sum().backward()
    expected = values_and_gradients(gaussians, cameras, (12, 9), "reference", torch.tensor([0.0, 0, 0, 0, 1, 0, 0]))
    torch.testing.assert_close(leaf.grad, expected["features"])
    assert not render(gaussians, *cameras, 12, 9).colors.requires_grad


def test_tensors_that_are_not_contiguous() -> None:
    gaussians, cameras = cloud(20), look(12, 9)
    turned = Gaussians(*(getattr(gaussians, name).repeat_interleave(2, dim=0)[::2] for name in FIELDS))
    assert torch.equal(images(render(turned, *cameras, 12, 9)), images(render(gaussians, *cameras, 12, 9)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_render_in_float32(kind: torch.dtype) -> None:
    halves = with_gradient(Gaussians(*(getattr(cloud(20), name).to(kind) for name in FIELDS)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rendered = render(halves, *look(12, 9), 12, 9, background=torch.ones(3, dtype=kind))
    singles = Gaussians(*(getattr(halves, name).detach().float() for name in FIELDS))
    expected = render(singles, *look(12, 9), 12, 9, background=torch.ones(3))
    assert images(rendered).dtype == torch.float32
    assert torch.equal(images(rendered), images(expected))
    images(rendered).sum().backward()
    assert {getattr(halves, name).grad.dtype for name in FIELDS} == {kind}


# With more elements torch's own operations use its threads, which a forked process lacks.
FORK_SIZE = (48, 40)


def _train_in_a_fork(results: Any) -> None:
    torch.set_num_threads(2)
    gaussians, cameras = cloud(6000, scale=0.05, dtype=torch.float32), look(*FORK_SIZE, views=2)
    found = values_and_gradients(gaussians, cameras, FORK_SIZE, "cpu", some_weights())
    results.put({name: value.numpy() for name, value in found.items()})


def test_a_forked_process_renders_after_its_parent_used_threads() -> None:
    torch.set_num_threads(2)
    gaussians, cameras = cloud(6000, scale=0.05, dtype=torch.float32), look(*FORK_SIZE, views=2)
    expected = values_and_gradients(gaussians, cameras, FORK_SIZE, "cpu", some_weights())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_train_in_a_fork, args=(results,))
    child.start()
    try:
        found = results.get(timeout=60)
        child.join(timeout=60)
    finally:
        child.kill()
    assert child.exitcode == 0
    assert all(np.array_equal(found[name], value.numpy()) for name, value in expected.items())


def test_import_without_a_folder_for_compiled_kernels(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(blocker / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    script = (
        "import numba.core.caching as c; c.CacheImpl._locator_classes = [c.UserProvidedCacheLocator];"
        "from gcbench.splatting import cpu_vectors; print(cpu_vectors.kernel(lambda x: x + 1)(1))"
    )
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "2", run.stderr
