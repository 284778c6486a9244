"""Features as colours: the strongest directions, in [0, 1], the same for all views."""

from __future__ import annotations

import numpy as np
import pytest

from gcbench.reporting.feature_colors import FeatureColors


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
