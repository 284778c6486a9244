"""Shapes of furniture. Each function fills a builder with one object of the given size (width, depth, height), metres.

The object's back is at y = -depth / 2, its front at y = +depth / 2, its foot at z = 0 (see `surfaces`).
Which class has which shape, and its sizes, is data: `recipes/rooms/furniture.yaml`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gcbench.data.rooms.surfaces import SurfaceBuilder

Size = tuple[float, float, float]


def _legs(b: SurfaceBuilder, size: Size, material: int, inset: float) -> None:
    """Four legs under a top, square or round, upright."""
    w, d, h = size
    thick = b.rng.uniform(0.03, 0.06) if w > 0.7 else b.rng.uniform(0.025, 0.04)
    round_legs = b.rng.random() < 0.4
    for sx in (-1, 1):
        for sy in (-1, 1):
            x, y = sx * (w / 2 - inset - thick / 2), sy * (d / 2 - inset - thick / 2)
            if round_legs:
                b.lathe([(0.6 * thick, 0), (0.6 * thick, h)], (x, y), material)
            else:
                b.box((x - thick / 2, y - thick / 2, 0), (x + thick / 2, y + thick / 2, h), material, "xXyY")


def chair(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    seat, legs = b.material(), b.material()
    z = min(b.rng.uniform(0.42, 0.47), 0.6 * h)
    _legs(b, (w, d, z), legs, 0.0)
    b.box((-w / 2, -d / 2, z - 0.04), (w / 2, d / 2, z), seat, "xXyYzZ")
    if b.rng.random() < 0.5:
        b.box((-w / 2, -d / 2, z + b.rng.uniform(0, 0.15)), (w / 2, -d / 2 + 0.03, h), seat, "xXyYzZ")
    else:
        for x in (-w / 2, w / 2 - 0.035):
            b.box((x, -d / 2, z), (x + 0.035, -d / 2 + 0.035, h), legs)
        bars = int(b.rng.integers(2, 4))
        for top in np.linspace(z + 0.2, h, bars):
            b.box((-w / 2 + 0.035, -d / 2, top - 0.08), (w / 2 - 0.035, -d / 2 + 0.025, top), seat, "yYzZ")
    if b.rng.random() < 0.25:
        for x in (-w / 2 - 0.02, w / 2 - 0.02):
            b.box((x, -d / 2, z + 0.2), (x + 0.04, d / 2 - 0.08, z + 0.23), legs, "xXyYzZ")
            b.box((x, d / 2 - 0.14, z), (x + 0.04, d / 2 - 0.1, z + 0.2), legs, "xXyY")


def swivel_chair(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    cloth, frame = b.material(), b.material()
    for angle in np.arange(5) * 2 * np.pi / 5 + b.rng.uniform(0, 1):
        c, s = np.cos(angle), np.sin(angle)
        r, half = 0.47 * w, 0.025
        for z, up in ((0.1, 1), (0.04, -1)):
            across = (-2 * half * s * up, 2 * half * c * up, 0)
            b.quad((half * s * up, -half * c * up, z), (r * c, r * s, -0.02), across, frame)
        b.lathe([(0.0, 0.0), (0.03, 0.0), (0.03, 0.06), (0.0, 0.06)], (r * c, r * s), frame)
    z = b.rng.uniform(0.42, 0.5)
    b.lathe([(0.035, 0.06), (0.03, z - 0.06)], (0, 0), frame)
    b.cushion((-0.44 * w, -0.4 * d, z - 0.07), (0.44 * w, 0.42 * d, z + 0.03), cloth, 0.05)
    low = z + b.rng.uniform(0.05, 0.15)
    b.cushion((-0.4 * w, -0.5 * d, low), (0.4 * w, -0.36 * d, h), cloth, 0.06)
    b.box((-0.04, -0.5 * d, z - 0.05), (0.04, -0.45 * d, low + 0.1), frame, "xXyY")
    if b.rng.random() < 0.6:
        for x in (-0.5 * w, 0.5 * w - 0.05):
            b.box((x, -0.25 * d, z + 0.19), (x + 0.05, 0.2 * d, z + 0.23), frame, "xXyYzZ")
            b.box((x + 0.01, -0.05 * d, z - 0.03), (x + 0.04, 0.05 * d, z + 0.19), frame, "xXyY")


def upholstered_seat(b: SurfaceBuilder, size: Size) -> None:
    """Sofas and armchairs: base, back, arms and one seat cushion per place."""
    w, d, h = size
    cloth = b.material()
    cushions = b.material() if b.rng.random() < 0.5 else cloth
    arm = b.rng.uniform(0.12, 0.22) if b.rng.random() < 0.85 else 0.02
    back, seat_z = b.rng.uniform(0.16, 0.24), b.rng.uniform(0.38, 0.46)
    base_z = b.rng.uniform(0.0, 0.1)
    b.box((-w / 2 + arm / 2, -d / 2, base_z), (w / 2 - arm / 2, d / 2 - 0.03, seat_z - 0.13), cloth)
    b.cushion((-w / 2 + arm * 0.7, -d / 2, base_z + 0.1), (w / 2 - arm * 0.7, -d / 2 + back, h), cloth, 0.07)
    if arm > 0.05:
        arm_z = b.rng.uniform(0.52, 0.64)
        for x in (-w / 2, w / 2 - arm):
            b.cushion((x, -d / 2 + 0.02, base_z), (x + arm, d / 2, min(arm_z, h)), cloth, 0.06)
    places = max(1, round((w - 2 * arm) / 0.65))
    step = (w - 2 * arm) / places
    for k in range(places):
        x = -w / 2 + arm + k * step
        b.cushion((x, -d / 2 + back * 0.8, seat_z - 0.14), (x + step, d / 2, seat_z + 0.01), cushions, 0.05)
    b.support((-w / 2 + arm, -d / 2 + back), (w / 2 - arm, d / 2 - 0.1), seat_z, 0.8)


def table(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    top, legs = b.material(), b.material()
    thick = b.rng.uniform(0.02, 0.05)
    round_top = abs(w - d) < 0.25 and b.rng.random() < 0.5
    if round_top:
        r = w / 2
        b.lathe([(0.0, h - thick), (r, h - thick), (r, h), (0.0, h)], (0, 0), top, (1, d / w))
    else:
        b.box((-w / 2, -d / 2, h - thick), (w / 2, d / 2, h), top, "xXyYzZ")
    if round_top or b.rng.random() < 0.15:
        foot = 0.3 * min(w, d)
        b.lathe([(foot, 0), (foot, 0.03), (0.05, 0.06), (0.04, h - thick)], (0, 0), legs)
    elif b.rng.random() < 0.2:
        for x in (-w / 2 + 0.05, w / 2 - 0.09):
            b.box((x, -d / 2 + 0.05, 0), (x + 0.04, d / 2 - 0.05, h - thick), legs, "xXyY")
    else:
        _legs(b, (w, d, h - thick), legs, b.rng.uniform(0.01, 0.06))
        if h < 0.6 and b.rng.random() < 0.4:
            b.box((-w / 2 + 0.06, -d / 2 + 0.06, 0.14), (w / 2 - 0.06, d / 2 - 0.06, 0.16), top, "xXyYzZ")
    inner = 0.7 if round_top else 0.94
    b.support((-w / 2 * inner, -d / 2 * inner), (w / 2 * inner, d / 2 * inner), h)


def desk(b: SurfaceBuilder, size: Size) -> None:
    """A top on one drawer block and a side panel or legs, with a panel behind the knees."""
    w, d, h = size
    top, body = b.material(), b.material()
    b.box((-w / 2, -d / 2, h - 0.035), (w / 2, d / 2, h), top, "xXyYzZ")
    side, block = b.rng.choice([-1, 1]), b.rng.uniform(0.36, 0.45)
    x = side * (w / 2 - block / 2 - 0.01)
    _fronts(b, (x - block / 2, -d / 2 + 0.03, 0.02), (x + block / 2, d / 2 - 0.03, h - 0.035), (1, 3), body)
    if b.rng.random() < 0.6:
        x = -side * (w / 2 - 0.03)
        b.box((x - 0.02, -d / 2 + 0.02, 0), (x + 0.02, d / 2 - 0.02, h - 0.035), body, "xXyY")
    else:
        for y in (-d / 2 + 0.05, d / 2 - 0.05):
            b.box(
                (-side * (w / 2 - 0.05) - 0.02, y - 0.02, 0), (-side * (w / 2 - 0.05) + 0.02, y + 0.02, h), body, "xXyY"
            )
    b.box((-w / 2 + 0.05, -d / 2 + 0.04, 0.3), (w / 2 - 0.05, -d / 2 + 0.06, h - 0.035), body, "yYz")
    b.support((-w / 2 + 0.03, -d / 2 + 0.03), (w / 2 - 0.03, d / 2 - 0.05), h)


def _fronts(b: SurfaceBuilder, low: tuple[float, float, float], high: tuple[float, float, float],
            cells: tuple[int, int], material: int) -> None:  # fmt: skip
    """A closed body whose front shows columns x rows of doors or drawers, each a raised panel with a handle."""
    front, knob = b.material() if b.rng.random() < 0.3 else material, b.material()
    b.box(low, high, material, "xXyYzZ")
    w, h = (high[0] - low[0]) / cells[0], (high[2] - low[2]) / cells[1]
    raised, y = b.rng.uniform(0.012, 0.022), high[1]
    upright = h > 1.3 * w
    for i in range(cells[0]):
        for j in range(cells[1]):
            x, z = low[0] + i * w, low[2] + j * h
            b.box((x + 0.012, y, z + 0.012), (x + w - 0.012, y + raised, z + h - 0.012), front, "xXYzZ")
            kx, kz = (x + (0.85 if i % 2 == 0 else 0.15) * w, z + 0.5 * h) if upright else (x + 0.5 * w, z + 0.62 * h)
            hw, hh = (0.012, 0.06) if upright else (0.06, 0.012)
            b.box((kx - hw, y + raised, kz - hh), (kx + hw, y + raised + 0.025, kz + hh), knob, "xXYzZ")


def cabinet(b: SurfaceBuilder, size: Size) -> None:
    """Doors for tall or wide bodies, drawers for others; on short feet, a plinth or hung from the wall."""
    w, d, h = size
    material = b.material()
    columns = max(1, round(w / b.rng.uniform(0.4, 0.6)))
    rows = 1 if h > 1.3 or b.rng.random() < 0.4 else max(1, round(h / b.rng.uniform(0.2, 0.32)))
    foot = b.rng.choice([0.0, 0.05, 0.1]) if h > 0.45 else 0.0
    if foot:
        b.box((-w / 2 + 0.04, -d / 2 + 0.02, 0), (w / 2 - 0.04, d / 2 - 0.06, foot), material, "xXyY")
    _fronts(b, (-w / 2, -d / 2, foot), (w / 2, d / 2 - 0.045, h), (columns, rows), material)
    b.support((-w / 2 + 0.02, -d / 2 + 0.02), (w / 2 - 0.02, d / 2 - 0.06), h, 0.6)


def shelf_unit(b: SurfaceBuilder, size: Size) -> None:
    """Sides, boards and a back; its compartments are slots for books and boxes."""
    w, d, h = size
    material = b.material()
    back = b.material() if b.rng.random() < 0.3 else material
    t = 0.022
    b.box((-w / 2, -d / 2, 0), (-w / 2 + t, d / 2, h), material, "xXYZ")
    b.box((w / 2 - t, -d / 2, 0), (w / 2, d / 2, h), material, "xXYZ")
    b.quad((w / 2, -d / 2 + 0.01, 0), (-w, 0, 0), (0, 0, h), back)
    boards = max(2, round(h / b.rng.uniform(0.3, 0.4))) + 1
    columns = 1 if w < 0.9 else int(b.rng.integers(1, 3))
    heights = np.linspace(0.05, h - t, boards)
    for z in heights:
        b.box((-w / 2 + t, -d / 2 + 0.01, z), (w / 2 - t, d / 2, z + t), material, "YzZ")
    step = w / columns
    for k in range(columns):
        x = -w / 2 + k * step
        if k > 0:
            b.box((x, -d / 2 + 0.01, 0.05), (x + t, d / 2, h), material, "xXY")
        for low, high in pairwise(heights):
            b.slot((x + t, -d / 2 + 0.02), (x + step - t, d / 2 - 0.02), low + t, high - low - t)
    b.support((-w / 2 + 0.02, -d / 2 + 0.02), (w / 2 - 0.02, d / 2 - 0.02), h, 0.4)


def bed(b: SurfaceBuilder, size: Size) -> None:
    """Frame, headboard at the back, mattress and a blanket over part of it; `height` is the headboard's."""
    w, d, h = size
    frame, mattress, blanket = b.material(), b.material(), b.material()
    top = b.rng.uniform(0.42, 0.58)
    b.box((-w / 2, -d / 2, 0), (w / 2, -d / 2 + 0.06, h), frame)
    low = b.rng.choice([0.0, 0.15])
    b.box((-w / 2, -d / 2 + 0.06, low), (w / 2, d / 2, top - 0.18), frame, "xXYZ")
    if low:
        _legs(b, (w, d, low), frame, 0.02)
    b.cushion((-w / 2 + 0.03, -d / 2 + 0.06, top - 0.18), (w / 2 - 0.03, d / 2 - 0.03, top), mattress, 0.06)
    start, side = b.rng.uniform(-0.25, 0.1) * d, b.rng.uniform(0.1, 0.25)
    edge = [
        (-w / 2 - 0.03, top - side),
        (-w / 2 - 0.02, top + 0.015),
        (w / 2 + 0.02, top + 0.015),
        (w / 2 + 0.03, top - side),
    ]
    parts = [np.linspace(p, q, max(2, int(np.hypot(q[0] - p[0], q[1] - p[1]) / b.spacing)), endpoint=False)
             for p, q in pairwise(edge)]  # fmt: skip
    xz = np.concatenate([*parts, np.array([edge[-1]])])
    y = np.linspace(start, d / 2 + 0.01, max(3, int((d / 2 - start) / b.spacing)))
    wave = 0.012 * np.sin(9 * xz[:, None, 0] + b.rng.uniform(0, 6)) * np.sin(7 * y[None, :] + b.rng.uniform(0, 6))
    points = np.stack(np.broadcast_arrays(xz[:, None, 0], y[None, :], xz[:, None, 1] + 0.012 + wave), axis=2)
    b.grid(np.ascontiguousarray(points), blanket)
    b.support((-w / 2 + 0.08, -d / 2 + 0.1), (w / 2 - 0.08, -d / 2 + 0.1 + 0.4), top + 0.01, 0.8)


def refrigerator(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    body, handle = b.material(), b.material()
    b.box((-w / 2, -d / 2, 0.03), (w / 2, d / 2 - 0.07, h), body)
    split = h * b.rng.choice([0.35, 0.62, 0.7]) if h > 1.1 else h - 0.01
    side = b.rng.choice([-1, 1])
    for low, high in ((0.06, split - 0.006), (split + 0.006, h)):
        if high - low < 0.1:
            continue
        b.box((-w / 2, d / 2 - 0.06, low), (w / 2, d / 2, high), body, "xXYzZ")
        x, middle, long = side * (w / 2 - 0.06), (low + high) / 2, 0.3 * (high - low)
        b.box((x - 0.015, d / 2, middle - long), (x + 0.015, d / 2 + 0.045, middle + long), handle, "xXYzZ")
    b.support((-w / 2 + 0.03, -d / 2 + 0.03), (w / 2 - 0.03, d / 2 - 0.1), h, 0.4)


def counter(b: SurfaceBuilder, size: Size) -> None:
    """A worktop with a hole for a basin over a row of doors; what stands on it keeps clear of the hole."""
    w, d, h = size
    top, body = b.material(), b.material()
    hole_w, hole_d = min(b.rng.uniform(0.45, 0.7), 0.6 * w), 0.62 * d
    x = b.rng.uniform(-0.25, 0.25) * (w - hole_w)
    x0, x1, y0, y1 = x - hole_w / 2, x + hole_w / 2, -0.3 * d, -0.3 * d + hole_d
    z, front = h - 0.04, d / 2
    b.box((-w / 2, -d / 2, z), (x0, front, h), top, "xyYZz")
    b.box((x1, -d / 2, z), (w / 2, front, h), top, "XyYZz")
    b.box((x0, -d / 2, z), (x1, y0, h), top, "yZ")
    b.box((x0, y1, z), (x1, front, h), top, "YZ")
    if b.rng.random() < 0.5:
        b.box((-w / 2, -d / 2, h), (w / 2, -d / 2 + 0.02, h + 0.1), top, "xXYZ")
    b.box((-w / 2 + 0.01, -d / 2, 0), (w / 2 - 0.01, d / 2 - 0.1, 0.1), body, "xXY")
    columns = max(2, round(w / 0.5))
    start = len(b.patches)
    _fronts(b, (-w / 2 + 0.01, -d / 2, 0.1), (w / 2 - 0.01, d / 2 - 0.06, z), (columns, 1), body)
    _drop_upward(b, start, z)
    b.slot((x0, y0), (x1, y1), h, 0.2)
    for low, high in ((-w / 2 + 0.03, x0 - 0.03), (x1 + 0.03, w / 2 - 0.03)):
        if high - low > 0.15:
            b.support((low, -d / 2 + 0.05), (high, d / 2 - 0.08), h, 0.45)


def _drop_upward(b: SurfaceBuilder, start: int, z: float) -> None:
    """Take out the lid of a body at height z, which would close the hole above it."""
    b.patches[start:] = [patch for patch in b.patches[start:] if float(patch.points[..., 2].min()) < z - 1e-6]


def wall_cabinet(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    _fronts(b, (-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.04, h), (max(1, round(w / 0.45)), 1), b.material())


def stove(b: SurfaceBuilder, size: Size) -> None:
    """A body with an oven door and a handle, and four rings on its top."""
    w, d, h = size
    body, dark, ring = b.material(), b.material(), b.material()
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.05, h), body)
    b.box((-w / 2 + 0.04, d / 2 - 0.05, 0.15), (w / 2 - 0.04, d / 2 - 0.02, 0.7 * h), dark, "xXYzZ")
    b.box((-0.35 * w, d / 2 - 0.02, 0.72 * h), (0.35 * w, d / 2 + 0.02, 0.75 * h), ring, "xXYzZ")
    b.box((-w / 2, -d / 2, h), (w / 2, -d / 2 + 0.06, h + 0.12), body)
    for x in (-0.22 * w, 0.22 * w):
        for y in (-0.22 * d, 0.15 * d):
            r = b.rng.uniform(0.07, 0.1)
            b.lathe([(r, h), (r, h + 0.012), (0.0, h + 0.012)], (x, y), ring)


def front_loader(b: SurfaceBuilder, size: Size) -> None:
    """A washing machine: a box with a round door."""
    w, d, h = size
    body, rim = b.material(), b.material()
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.05, h), body)
    angle = np.linspace(0, 2 * np.pi, 25)[:, None]
    for r0, r1, y0, y1 in ((0.21, 0.19, 0.0, 0.045), (0.19, 0.13, 0.045, 0.03), (0.13, 0.0, 0.03, 0.01)):
        r, y = np.array([[r0, r1]]), np.array([[y0, y1]])
        points = np.stack(
            np.broadcast_arrays(r * np.sin(angle), d / 2 - 0.05 + y, 0.52 * h + r * np.cos(angle)), axis=2
        )
        b.grid(np.ascontiguousarray(points), rim)
    b.box((-w / 2 + 0.03, d / 2 - 0.05, 0.86 * h), (w / 2 - 0.03, d / 2 - 0.04, 0.96 * h), rim, "xXYzZ")
    b.support((-w / 2 + 0.03, -d / 2 + 0.03), (w / 2 - 0.03, d / 2 - 0.08), h, 0.5)


def bench(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    top, legs = b.material(), b.material()
    b.box((-w / 2, -d / 2, h - 0.05), (w / 2, d / 2, h), top, "xXyYzZ")
    _legs(b, (w, d, h - 0.05), legs, 0.04)


def stool(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    seat, legs = b.material(), b.material()
    b.lathe([(0, h - 0.05), (w / 2, h - 0.05), (w / 2, h - 0.01), (0, h)], (0, 0), seat, (1, d / w))
    _legs(b, (0.75 * w, 0.75 * d, h - 0.05), legs, 0.0)


def ottoman(b: SurfaceBuilder, size: Size) -> None:
    w, d, h = size
    b.cushion((-w / 2, -d / 2, 0), (w / 2, d / 2, h), b.material(), 0.08)


def pillar(b: SurfaceBuilder, size: Size) -> None:
    """A plain box: columns and beams."""
    w, d, h = size
    b.box((-w / 2, -d / 2, 0), (w / 2, d / 2, h), b.material(), "xXyYzZ")
