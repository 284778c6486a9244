from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate, ndimage

from gcbench.data.elastic import elastic_distortion, elastic_noise
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Float64Array

seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, count: int = 400) -> Float32Array:
    return np.random.default_rng(seed).uniform([-1, 2, 0.3], [3, 5, 2.5], (count, 3)).astype(np.float32)


def slow_distortion(coord: Float32Array, noise: Float32Array, granularity: float, magnitude: float) -> Float64Array:
    """The twin: 4-dimensional box kernels along x, y, z, twice; a grid interpolator from coord_min - granularity on."""
    blurred = noise.astype(np.float64)
    for _ in range(2):
        for axis in range(3):
            kernel = np.full([3 if d == axis else 1 for d in range(4)], 1 / 3)
            blurred = ndimage.convolve(blurred, kernel, mode="constant", cval=0)
    low = coord.min(axis=0).astype(np.float64)
    axes = [
        np.linspace(low[d] - granularity, low[d] + granularity * (noise.shape[d] - 2), noise.shape[d]) for d in range(3)
    ]
    shifts: Float64Array = interpolate.RegularGridInterpolator(axes, blurred)(coord.astype(np.float64))
    return coord + magnitude * shifts


@settings(max_examples=30)
@given(seeds, st.sampled_from([(0.2, 0.4), (0.8, 1.6)]), st.booleans())
def test_elastic_distortion_equals_its_slow_twin(seed: int, setting: tuple[float, float], columns: bool) -> None:
    granularity, magnitude = setting
    coord = np.asfortranarray(cloud(seed)) if columns else cloud(seed)
    noise = elastic_noise(coord, granularity, np.random.default_rng(seed))
    moved = elastic_distortion(coord, noise, granularity=granularity, magnitude=magnitude)
    assert moved.dtype == np.float32
    assert np.abs(moved - coord).max() > 0.02
    # 1e-5: positions in cells and coordinates of a few metres in float32 (5e-7 measured)
    np.testing.assert_allclose(moved, slow_distortion(coord, noise, granularity, magnitude), rtol=0, atol=1e-5)


def test_noise_covers_the_box_and_one_cell_around_it() -> None:
    coord = np.array([[0, 0, 0], [1.05, 0.1, 0.4]], np.float32)
    noise = elastic_noise(coord, 0.25, np.random.default_rng(0))
    assert noise.shape == (4 + 3, 0 + 3, 1 + 3, 3)
    many = elastic_noise(cloud(0), 0.05, np.random.default_rng(0))
    assert abs(many.mean()) < 0.02
    assert many.std() == pytest.approx(1, abs=0.02)


def test_points_on_nodes_take_the_nodes_value() -> None:
    steps = np.stack(np.meshgrid(range(5), range(4), range(3), indexing="ij"), axis=-1).reshape(-1, 3)
    coord = (steps * 0.5).astype(np.float32)
    noise = elastic_noise(coord, 0.5, np.random.default_rng(1))
    expected = slow_distortion(coord, noise, 0.5, 2.0)
    np.testing.assert_allclose(
        elastic_distortion(coord, noise, granularity=0.5, magnitude=2.0), expected, rtol=0, atol=1e-5
    )


def test_more_points_than_a_block_are_all_moved() -> None:
    coord = cloud(0, 40_000)
    noise = elastic_noise(coord, 0.2, np.random.default_rng(0))
    moved = elastic_distortion(coord, noise, granularity=0.2, magnitude=0.4)
    np.testing.assert_allclose(moved, slow_distortion(coord, noise, 0.2, 0.4), rtol=0, atol=1e-5)


def test_what_cannot_be_distorted_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="finite"):
        elastic_noise(np.array([[0, 0, 0], [np.nan, 0, 0]], np.float32), 0.2, rng)
    with pytest.raises(InputError, match="metres"):
        elastic_noise(np.array([[0, 0, 0], [1e6, 1e6, 1e6]], np.float32), 0.2, rng)
    noise = elastic_noise(cloud(0)[:, [2, 1, 0]], 0.2, rng)
    with pytest.raises(InputError, match="too small"):
        elastic_distortion(cloud(0), noise, granularity=0.2, magnitude=0.4)
