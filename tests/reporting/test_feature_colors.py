"""Features as colours: the strongest directions, in [0, 1], the same for all views."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gcbench.errors import MissingExtraError
from gcbench.reporting.feature_colors import FeatureColors, umap_colors


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_colours_are_shared_by_all_views(channels: int) -> None:
    features = np.random.default_rng(0).normal(size=(3, 6, 5, channels)).astype(np.float32)
    colors = FeatureColors.of(list(features))
    shown = np.stack([colors(view) for view in features])
    assert shown.shape == (3, 6, 5, 3)
    assert shown.min() >= 0 and shown.max() <= 1
    assert np.ptp(shown[..., 0]) == 1.0
    assert (shown[..., channels:] == 0).all()
    assert np.array_equal(colors(features[1]), shown[1])


def test_channels_are_the_three_strongest_directions_with_a_sign_of_their_own() -> None:
    rng = np.random.default_rng(1)
    sources = rng.uniform(size=(40, 50, 5)) * (1.0, 16.0, 2.0, 8.0, 4.0)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    colors = FeatureColors.of([sources @ turn])
    assert abs(colors.axes.T @ turn.T)[range(3), [1, 3, 4]] == pytest.approx(1.0, abs=0.01)
    assert (np.take_along_axis(colors.axes, abs(colors.axes).argmax(axis=0)[None], axis=0) > 0).all()
    shown = colors(sources @ turn)
    for channel, source in enumerate((1, 3, 4)):
        assert abs(np.corrcoef(shown[..., channel].ravel(), sources[..., source].ravel())[0, 1]) > 0.98


@pytest.mark.parametrize("shape", [(4, 4, 5), (1, 1, 5), (1, 1, 1)])
@pytest.mark.filterwarnings("error")
def test_equal_features_and_a_single_pixel_have_a_colour(shape: tuple[int, int, int]) -> None:
    features = np.ones(shape, dtype=np.float32)
    shown = FeatureColors.of([features])(features)
    assert np.isfinite(shown).all() and shown.shape == (*shape[:2], 3)


class FirstThree:
    """In place of UMAP: the first three channels, and a note of what it was asked."""

    asked: dict[str, Any]
    learned: np.ndarray[Any, Any]

    def __init__(self, **asked: Any) -> None:
        FirstThree.asked = asked

    def fit_transform(self, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        FirstThree.learned = features
        return features[:, :3]


@pytest.fixture
def umap(monkeypatch: pytest.MonkeyPatch) -> type[FirstThree]:
    module = ModuleType("umap")
    module.UMAP = FirstThree  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    return FirstThree


def test_umap_learns_from_different_features_only_and_every_point_gets_a_colour(umap: type[FirstThree]) -> None:
    different = np.random.default_rng(2).random((40, 5)).astype(np.float32)
    features = np.repeat(different, 7, axis=0)
    colors = umap_colors(features, points=100, neighbors=50, seed=3)
    assert len(umap.learned) == 40
    assert umap.asked["n_neighbors"] == 39
    assert umap.asked["random_state"] == 3
    assert colors.shape == (280, 3)
    assert (colors[::7] == colors[6::7]).all()
    assert (np.argsort(colors[::7, 0])[2:-2] == np.argsort(different[:, 0])[2:-2]).all(), "each its own place's colour"
    assert colors.min() == 0.0
    assert colors.max() == 1.0


def test_points_that_umap_did_not_learn_take_the_nearest_ones_colour(umap: type[FirstThree]) -> None:
    features = np.random.default_rng(4).random((3000, 4)).astype(np.float32)
    colors = umap_colors(features, points=200, neighbors=15, seed=0)
    assert len(umap.learned) == 200
    low, high = np.percentile(umap.learned[:, :3], [1, 99], axis=0)
    for point in range(0, 3000, 250):
        nearest = umap.learned[((umap.learned - features[point]) ** 2).sum(axis=1).argmin()]
        assert colors[point] == pytest.approx(np.clip((nearest[:3] - low) / (high - low), 0, 1), abs=1e-5)
    assert np.array_equal(umap_colors(features, points=200, neighbors=15, seed=0), colors)
    assert not np.array_equal(umap_colors(features, points=200, neighbors=15, seed=1), colors)


def test_without_umap_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"gcbench\[figures\]"):
        umap_colors(np.ones((9, 4)), points=9, neighbors=5, seed=0)
