"""Procedural textures: a colour for a place on a surface (numba kernel), and how materials are drawn at random.

A material is one row of float64:
    0 kind   1-3, 4-6, 7-9 three colours in [0, 1]   10 period in metres   11, 12 cosine and sine of its direction
    13 strength of the fine noise   14 seed of the pattern
Kinds: 0 plain, 1 stripes, 2 checks, 3 wood grain, 4 blotches, 5 picture, 6 tiles with joints.
No kind and no colour belongs to a class: every instance draws from the same distribution.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numba import njit

from gcbench.structures import Float64Array

MATERIAL_WIDTH = 15
PLAIN, STRIPES, CHECKS, WOOD, BLOTCHES, PICTURE, TILES = range(7)
_KIND_WEIGHTS = np.array([0.26, 0.13, 0.09, 0.18, 0.17, 0.08, 0.09])


def draw_color(rng: np.random.Generator) -> tuple[float, float, float]:
    """One colour of the common palette: half of them near grey, the rest of any hue."""
    saturation = rng.uniform(0.0, 0.18) if rng.random() < 0.45 else rng.uniform(0.18, 0.8)
    value = float(np.clip(rng.beta(2.2, 1.6), 0.08, 0.97))
    return colorsys.hsv_to_rgb(float(rng.random()), float(saturation), value)


def draw_material(rng: np.random.Generator, *, kind: int | None = None) -> Float64Array:
    """A random material row [15]; `kind` fixes the pattern, for what is a picture by its nature."""
    row = np.zeros(MATERIAL_WIDTH)
    row[0] = rng.choice(7, p=_KIND_WEIGHTS) if kind is None else kind
    base = np.array(draw_color(rng))
    row[1:4] = base
    if row[0] == PICTURE:
        row[4:7], row[7:10] = draw_color(rng), draw_color(rng)
    else:
        other = np.array(draw_color(rng))
        share = rng.uniform(0.25, 0.8)
        row[4:7] = share * base + (1 - share) * other
        row[7:10] = np.clip(base * rng.uniform(0.55, 1.25), 0, 1)
    row[10] = rng.uniform(0.12, 0.5)
    turned = rng.uniform(-np.pi, np.pi) if rng.random() < 0.25 else rng.choice([0.0, np.pi / 2])
    row[11:13] = np.cos(turned), np.sin(turned)
    row[13] = rng.uniform(0.01, 0.06)
    row[14] = rng.integers(1, 1_000_000)
    return row


@njit(cache=True, nogil=True)
def hash01(i, j, k):  # type: ignore[no-untyped-def]
    """A fixed pseudo-random number in [0, 1) for three integers."""
    h = (np.int64(i) * 374761393 + np.int64(j) * 668265263 + np.int64(k) * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@njit(cache=True, nogil=True)
def smooth_noise(x, y, seed):  # type: ignore[no-untyped-def]
    """Value noise in [0, 1] with cells of unit size."""
    i, j = np.floor(x), np.floor(y)
    a, b = x - i, y - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    low = hash01(i, j, seed) * (1 - a) + hash01(i + 1, j, seed) * a
    high = hash01(i, j + 1, seed) * (1 - a) + hash01(i + 1, j + 1, seed) * a
    return low * (1 - b) + high * b


@njit(cache=True, nogil=True)
def _picture(x, y, seed):  # type: ignore[no-untyped-def]
    """Weights of the three colours of a picture: two soft hills over a ground, cut by a horizon."""
    horizon = 0.4 + 0.3 * smooth_noise(3.0 * x, 0.5, seed)
    blob = smooth_noise(5.0 * x, 5.0 * y, seed + 1)
    first = 1.0 if y % 1.0 < horizon else 0.0
    second = min(max((blob - 0.5) * 6.0, 0.0), 1.0)
    return (1 - first) * (1 - second), first * (1 - second), second


@njit(cache=True, nogil=True)
def texture(row, u, v, width):  # type: ignore[no-untyped-def]
    """Albedo (r, g, b) at (u, v) metres; patterns finer than `width` metres fade into their mean."""
    kind, period, seed = int(row[0]), row[10], int(row[14])
    x = (row[11] * u + row[12] * v) / period
    y = (row[11] * v - row[12] * u) / period
    sharp = min(max(2.0 - 3.0 * width / period, 0.0), 1.0)
    w1, w2, w3 = 1.0, 0.0, 0.0
    if kind == 1:
        w2 = 1.0 if x - np.floor(x) < 0.5 else 0.0
        w2 = sharp * w2 + (1 - sharp) * 0.5
    elif kind == 2:
        w2 = 1.0 if (int(np.floor(2 * x)) + int(np.floor(2 * y))) % 2 == 0 else 0.0
        w2 = sharp * w2 + (1 - sharp) * 0.5
    elif kind == 3:
        ring = 6.0 * (y + 0.5 * smooth_noise(0.6 * x, 2.0 * y, seed))
        w3 = smooth_noise(0.7 * x, 3.0 * ring, seed + 2)
    elif kind == 4:
        w2 = min(max(3.0 * smooth_noise(2 * x, 2 * y, seed) - 1.0, 0.0), 1.0)
    elif kind == 5:
        w1, w2, w3 = _picture(u / (2.5 * period), v / (2.5 * period), seed)
    elif kind == 6:
        joint = min(abs(x - np.floor(x) - 0.5), abs(y - np.floor(y) - 0.5))
        w2 = 1.0 if joint < 0.03 else 0.0
        w2 = sharp * w2 + (1 - sharp) * 0.12
    if kind != 5:
        w1 = 1.0 - w2 - w3
    fade = min(max(2.0 - 40.0 * width, 0.0), 1.0)
    fine = 1.0 + row[13] * (2 * smooth_noise(40 * u, 40 * v, seed + 5) - 1) * fade
    broad = 1.0 + 1.5 * row[13] * (2 * smooth_noise(2.2 * u, 2.2 * v, seed + 7) - 1)
    gain = fine * broad
    r = (w1 * row[1] + w2 * row[4] + w3 * row[7]) * gain
    g = (w1 * row[2] + w2 * row[5] + w3 * row[8]) * gain
    b = (w1 * row[3] + w2 * row[6] + w3 * row[9]) * gain
    return r, g, b
