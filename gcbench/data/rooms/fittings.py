"""Shapes of bathroom fittings, of what hangs on walls, and of small things. Frames and sizes as in `furniture`.

Things on walls have their back at y = -depth / 2 against the wall and z = 0 at their lower edge.
"""

from __future__ import annotations

import numpy as np

from gcbench.data.rooms.furniture import Size
from gcbench.data.rooms.surfaces import SurfaceBuilder
from gcbench.data.rooms.textures import PICTURE
from gcbench.structures import Float64Array


def toilet(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    white, seat = b.material(), b.material()
    z, tank = 0.4, 0.2
    y = -d / 2 + tank + (d - tank) / 2 - 0.02
    stretch = (0.5 * w / 0.19 * 0.95, 0.5 * (d - tank) / 0.19)
    b.lathe([(0.13, 0), (0.12, 0.12), (0.17, 0.3), (0.19, z), (0.14, z), (0.11, z - 0.14), (0.0, z - 0.18)],
            (0, y), white, stretch)  # fmt: skip
    b.lathe([(0.135, z), (0.135, z + 0.02), (0.19, z + 0.025), (0.192, z)], (0, y), seat, stretch)
    b.cushion((-w / 2, -d / 2, z - 0.02), (w / 2, -d / 2 + tank, h), white, 0.03)
    b.box((-0.3 * w, -d / 2, 0), (0.3 * w, -d / 2 + tank, z), white, "xXY")
    if b.rng.random() < 0.4:
        b.box((-0.45 * w, -d / 2 + tank, z + 0.03), (0.45 * w, -d / 2 + tank + 0.03, z + 0.4), seat)
    b.support((-w / 2 + 0.03, -d / 2 + 0.02), (w / 2 - 0.03, -d / 2 + tank - 0.02), h, 0.4)


def basin(b: SurfaceBuilder, size: Size) -> None:
    """A sunk bowl with a rim and a tap; z = 0 is the worktop it is let into, `size` the hole."""
    w, d, h = size
    bowl, metal = b.material(), b.material()
    ring = [(1.04, 0.012), (0.97, 0.012), (0.86, -0.6 * h), (0.6, -0.85 * h), (0.0, -0.85 * h)]
    if b.rng.random() < 0.4:
        b.lathe([(0.5 * r, z) for r, z in [(1.06, 0.0), *ring]], (0, 0), bowl, (w, d))
        for x in (-w / 2, w / 2):
            for y in (-d / 2, d / 2):
                b.box((min(x, 0.7 * x), min(y, 0.7 * y), 0.0), (max(x, 0.7 * x), max(y, 0.7 * y), 0.006), bowl, "Z")
    else:
        angle = np.arange(33) * np.pi / 16
        square = 1 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
        rz = np.array(ring)
        x = 0.5 * w * (square * np.cos(angle))[:, None] * rz[None, :, 0]
        y = 0.5 * d * (square * np.sin(angle))[:, None] * rz[None, :, 0]
        b.grid(np.stack([x, y, np.broadcast_to(rz[None, :, 1], x.shape)], axis=2), bowl)
    _tap(b, (0, -d / 2 + 0.02, 0.012), metal)


def _tap(b: SurfaceBuilder, foot: tuple[float, float, float], metal: int) -> None:
    x, y, z = foot
    b.lathe([(0.018, z), (0.018, z + 0.2), (0.0, z + 0.21)], (x, y), metal)
    b.box((x - 0.013, y, z + 0.17), (x + 0.013, y + 0.15, z + 0.195), metal, "xXYzZ")


def wash_stand(b: SurfaceBuilder, size: Size) -> None:
    """A basin on a pedestal, against a wall."""
    w, d, h = size
    white, metal = b.material(), b.material()
    b.lathe([(0.12, 0), (0.09, 0.1), (0.08, h - 0.18), (0.13, h - 0.15)], (0, -0.1 * d), white)
    outer = [(0.2, h - 0.16), (0.44, h - 0.1), (0.5, h), (0.42, h), (0.34, h - 0.1), (0.0, h - 0.13)]
    b.lathe(outer, (0, 0), white, (w, d))
    b.box((-0.42 * w, -d / 2, h - 0.12), (0.42 * w, -0.3 * d, h), white)
    _tap(b, (0, -0.42 * d, h), metal)


def bathtub(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    white, metal = b.material(), b.material()
    rim, floor = 0.07, 0.12
    angle = np.linspace(0, 2 * np.pi, 65)
    power = 0.35
    cx = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    cy = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    square = 1 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    ex, ey = square * np.cos(angle), square * np.sin(angle)
    x = np.stack(
        [w / 2 * ex, (w / 2 - rim) * cx, (w / 2 - rim - 0.03) * cx, (w / 2 - rim - 0.1) * cx * 0.95, 0 * cx], 1
    )
    y = np.stack(
        [d / 2 * ey, (d / 2 - rim) * cy, (d / 2 - rim - 0.02) * cy, (d / 2 - rim - 0.06) * cy * 0.95, 0 * cy], 1
    )
    z = np.broadcast_to(np.array([h, h, h - 0.15, floor, floor]), x.shape)
    fine = np.linspace(0, 4, 21)
    points = np.stack([_between(a, fine) for a in (x, y, z)], axis=2)
    b.grid(points, white)
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), white, "xXyY")
    b.box((-w / 2 + 0.01, -0.04, h), (-w / 2 + 0.05, 0.04, h + 0.12), metal)
    b.box((-w / 2 + 0.05, -0.02, h + 0.08), (-w / 2 + 0.16, 0.02, h + 0.11), metal, "XyYzZ")


def _between(rows: Float64Array, at: Float64Array) -> Float64Array:
    """Linear interpolation along the second axis at fractional positions."""
    i = np.minimum(at.astype(int), rows.shape[1] - 2)
    t = at - i
    return np.asarray(rows[:, i] * (1 - t) + rows[:, i + 1] * t)


def curtain(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    cloth, rod = b.material(), b.material()
    b.hanging_cloth(w, (0.0, h), 0.0, d, cloth)
    b.box((-w / 2 - 0.05, -0.012, h), (w / 2 + 0.05, 0.012, h + 0.025), rod, "xXyYzZ")


def door(b: SurfaceBuilder, size: Size) -> None:
    """A leaf in a frame that stands proud of the wall; the leaf lies a little behind the wall's face."""
    w, d, h = size
    leaf, frame, metal = b.material(), b.material(), b.material()
    t = 0.07
    y, front = -0.04, d / 2
    b.quad((w / 2 - t, y, 0.0), (2 * t - w, 0, 0), (0, 0, h - t), leaf)
    for x0, x1 in ((-w / 2, -w / 2 + t), (w / 2 - t, w / 2)):
        b.box((x0, y, 0), (x1, front, h), frame, "xXY")
    b.box((-w / 2 + t, y, h - t), (w / 2 - t, front, h), frame, "YzZ")
    for low, high in ((0.12, 0.45 * h), (0.52 * h, h - 0.2)) if b.rng.random() < 0.6 else ():
        b.box((-w / 2 + 0.18, y, low), (w / 2 - 0.18, y + 0.012, high), leaf, "xXYzZ")
    x = b.rng.choice([-1, 1]) * (w / 2 - t - 0.08)
    b.box((x - 0.02, y, 0.95), (x + 0.02, y + 0.05, 1.1), metal, "xXYzZ")
    b.box((min(x, 0.72 * x), y + 0.04, 1.02), (max(x, 0.72 * x), y + 0.06, 1.045), metal, "xXYzZ")


def window(b: SurfaceBuilder, size: Size) -> None:
    """Frame, cross bars, a sill and the panes, which lie behind the wall's face and show what is outside."""
    w, d, h = size
    frame, pane = b.material(), b.material(PICTURE)
    t, y = 0.05, -0.07
    b.quad((w / 2, y, 0), (-w, 0, 0), (0, 0, h), pane)
    for low, high in (((-w / 2, 0), (-w / 2 + t, h)), ((w / 2 - t, 0), (w / 2, h))):
        b.box((low[0], y, low[1]), (high[0], d / 2, high[1]), frame, "xXY")
    b.box((-w / 2 + t, y, h - t), (w / 2 - t, d / 2, h), frame, "YzZ")
    b.box((-w / 2 + t, y, 0), (w / 2 - t, d / 2, t), frame, "YzZ")
    for x in np.linspace(-w / 2, w / 2, max(2, round(w / 0.6)) + 1)[1:-1]:
        b.box((x - 0.025, y, t), (x + 0.025, y + 0.04, h - t), frame, "xXY")
    if b.rng.random() < 0.5:
        z = h * b.rng.uniform(0.5, 0.75)
        b.box((-w / 2 + t, y, z - 0.02), (w / 2 - t, y + 0.035, z + 0.02), frame, "YzZ")
    b.box((-w / 2 - 0.05, -d / 2, -0.03), (w / 2 + 0.05, d / 2 + b.rng.uniform(0.04, 0.12), 0.0), frame, "xXYzZ")


def framed_panel(b: SurfaceBuilder, size: Size) -> None:
    """Pictures, boards and mirrors: a panel in a frame."""
    w, d, h = size
    frame, panel = b.material(), b.material(PICTURE if b.rng.random() < 0.7 else None)
    t = min(b.rng.uniform(0.015, 0.05), 0.15 * w, 0.15 * h)
    b.box((-w / 2, -d / 2, 0), (-w / 2 + t, d / 2, h), frame, "xXYzZ")
    b.box((w / 2 - t, -d / 2, 0), (w / 2, d / 2, h), frame, "xXYzZ")
    b.box((-w / 2 + t, -d / 2, 0), (w / 2 - t, d / 2, t), frame, "YzZ")
    b.box((-w / 2 + t, -d / 2, h - t), (w / 2 - t, d / 2, h), frame, "YzZ")
    b.quad((w / 2 - t, 0.2 * d, t), (2 * t - w, 0, 0), (0, 0, h - 2 * t), panel)


def radiator(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    m = b.material()
    fins = max(4, round(w / 0.08))
    for x in np.linspace(-w / 2, w / 2 - 0.05, fins):
        b.box((x, -d / 2, 0), (x + 0.05, d / 2, h), m, "xXYzZ")
    b.box((-w / 2, -0.2 * d, 0.06), (w / 2, 0.2 * d, 0.1), m, "YzZ")


def towel(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    cloth, bar = b.material(), b.material()
    b.hanging_cloth(w, (0.0, h), 0.2 * d, 0.3 * d, cloth)
    b.box((-w / 2 - 0.06, -d / 2, h), (w / 2 + 0.06, d / 2, h + 0.02), bar, "xXYzZ")


def shaded_lamp(b: SurfaceBuilder, size: Size) -> None:
    w, _, h = size
    shade, foot = b.material(), b.material()
    r, s = w / 2, min(0.35 * h, 0.3)
    b.lathe([(0.6 * r, 0), (0.6 * r, 0.02), (0.02, 0.04), (0.014, h - s)], (0, 0), foot)
    b.lathe([(r, h - s), (b.rng.uniform(0.5, 1.0) * r, h), (0.0, h)], (0, 0), shade)


def open_bin(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    m = b.material()
    if b.rng.random() < 0.6:
        r = w / 2
        b.lathe([(0.75 * r, 0), (r, h), (0.96 * r, h), (0.7 * r, 0.02), (0, 0.02)], (0, 0), m, (1, d / w))
    else:
        b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), m, "xXyY")
        t = 0.015
        b.quad((-w / 2 + t, -d / 2 + t, 0.03), (w - 2 * t, 0, 0), (0, d - 2 * t, 0), m)
        b.box((w / 2 - t, -d / 2 + t, 0), (-w / 2 + t, d / 2 - t, h), m, "xXyY")  # inside out


def closed_box(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    m = b.material()
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), m)
    if b.rng.random() < 0.5:
        b.box((-w / 2 - 0.008, -d / 2 - 0.008, 0.78 * h), (w / 2 + 0.008, d / 2 + 0.008, h + 0.008), m, "xXyYzZ")
    b.support((-w / 2, -d / 2), (w / 2, d / 2), h + 0.008, 0.4)


def screen(b: SurfaceBuilder, size: Size) -> None:
    """Monitors and televisions: a thin panel on a foot."""
    w, d, h = size
    case, face = b.material(), b.material(PICTURE if b.rng.random() < 0.3 else None)
    z = 0.16 * h if h > 0.5 else 0.25 * h
    b.box((-w / 2, -0.03, z), (w / 2, 0.02, h), case, "xXyYzZ")
    b.quad((w / 2 - 0.02, 0.0215, z + 0.02), (0.04 - w, 0, 0), (0, 0, h - z - 0.04), face)
    b.box((-0.05, -0.03, 0), (0.05, -0.01, z), case, "xXyY")
    b.box((-0.22 * w, -d / 2, 0), (0.22 * w, d / 2, 0.015), case)


def flat_slab(b: SurfaceBuilder, size: Size) -> None:
    """Keyboards, papers, single books."""
    w, d, h = size
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), b.material())


def laptop(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    case, face = b.material(), b.material()
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, 0.02), case)
    lean = b.rng.uniform(0.02, 0.1)
    b.quad((w / 2, -d / 2, 0.02), (-w, 0, 0), (0, -lean, h - 0.02), face)
    b.quad((-w / 2, -d / 2 - 0.012, 0.02), (w, 0, 0), (0, -lean, h - 0.02), case)


def book_row(b: SurfaceBuilder, size: Size) -> None:
    """Books side by side in a compartment of the given size, some lying."""
    w, d, h = size
    x, colors = -w / 2 + 0.005, [b.material() for _ in range(5)]
    stop = w / 2 - b.rng.uniform(0.0, 0.35) * w
    while x < stop:
        thick = b.rng.uniform(0.022, 0.06)
        tall, deep = h * b.rng.uniform(0.62, 0.93), d * b.rng.uniform(0.65, 0.95)
        if x + thick > w / 2:
            break
        b.box((x, -d / 2, 0), (x + thick, -d / 2 + deep, tall), colors[int(b.rng.integers(5))], "xXYZ")
        x += thick + 0.002


def book_pile(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    z = 0.0
    while z < h - 0.015:
        thick = min(b.rng.uniform(0.015, 0.045), h - z)
        x, y = b.rng.uniform(-0.03, 0.03, 2)
        b.box((x - w / 2, y - d / 2, z), (x + w / 2, y + d / 2, z + thick), b.material())
        z += thick


def soft_bag(b: SurfaceBuilder, size: Size) -> None:
    """Backpacks and bags: a soft body, a pocket and a loop."""
    w, d, h = size
    m, n = b.material(), b.material()
    b.cushion((-w / 2, -d / 2, 0), (w / 2, 0.25 * d, h), m, 0.09)
    b.cushion((-0.36 * w, 0.05 * d, 0.03), (0.36 * w, d / 2, 0.55 * h), n, 0.06)
    b.box((-0.06, -0.2 * d, h - 0.02), (0.06, -0.2 * d + 0.02, h + 0.05), n, "xXyYZ")


def pillow(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    b.cushion((-w / 2, -d / 2, 0), (w / 2, d / 2, h), b.material(), 0.48 * h)


def vessel(b: SurfaceBuilder, size: Size) -> None:
    """Bottles and cups, paper rolls."""
    w, _, h = size
    r = w / 2
    neck = 0.35 * r if h > 2.2 * w else r
    b.lathe([(0.9 * r, 0), (r, 0.6 * h), (neck, 0.78 * h), (neck, h), (0, h)], (0, 0), b.material())


def leafy_plant(b: SurfaceBuilder, size: Size) -> None:
    """A pot and a crown of leaves."""
    w, _, h = size
    pot, leaf = b.material(), b.material()
    z = 0.3 * h
    b.lathe([(0.2 * w, 0), (0.28 * w, z), (0.24 * w, z), (0, z - 0.03)], (0, 0), pot)
    for _ in range(int(b.rng.integers(9, 16))):
        angle, rise = b.rng.uniform(0, 2 * np.pi), b.rng.uniform(0.5, 1.0)
        reach = w / 2 * b.rng.uniform(0.5, 1.0)
        t = np.linspace(0, 1, 6)
        out, up = reach * t**1.3, z - 0.03 + (h - z) * rise * np.sin(1.9 * t)
        half = 0.16 * w * np.sin(np.pi * np.clip(t, 0.06, 0.97))
        c, s = np.cos(angle), np.sin(angle)
        left = np.stack([out * c - half * s, out * s + half * c, up], 1)
        right = np.stack([out * c + half * s, out * s - half * c, up], 1)
        b.grid(np.stack([left, right], axis=1), leaf)
        b.grid(np.stack([right, left], axis=1), leaf)


def block(b: SurfaceBuilder, size: Size) -> None:
    """Appliances: a box whose front has a panel and a strip."""
    w, d, h = size
    body, face = b.material(), b.material()
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.02, h), body)
    b.box((-w / 2 + 0.02, d / 2 - 0.02, 0.1 * h), (0.22 * w, d / 2, 0.92 * h), face, "xXYzZ")
    b.support((-w / 2 + 0.02, -d / 2 + 0.02), (w / 2 - 0.02, d / 2 - 0.04), h, 0.3)
