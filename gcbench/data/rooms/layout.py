"""Where walls, openings and furniture of a room go.

Room frame: metres, z up, floor at z = 0, the outline counter-clockwise; the inside lies left of each wall.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcbench.data.rooms.catalogue import Item, RoomBook, RoomType
from gcbench.data.rooms.furniture import Size
from gcbench.data.rooms.surfaces import Support, SurfaceBuilder
from gcbench.structures import Float64Array

CELL = 0.05
_CLEAR_WALL = 0.03

BoolArray = NDArray[np.bool_]
Rectangle = tuple[float, float, float, float]


@dataclass
class Wall:
    """One straight wall: from `start` along the unit vector `along` for `length` metres; `inward` is its normal.

    `used` are rectangles (from, to, low, high) on it, metres; `openings` those that are cut out.
    """

    start: Float64Array
    along: Float64Array
    length: float
    used: list[Rectangle] = field(default_factory=list)
    openings: list[Rectangle] = field(default_factory=list)

    @property
    def inward(self) -> Float64Array:
        return np.array([-self.along[1], self.along[0]])

    def is_free(self, area: Rectangle, gap: float = 0.02) -> bool:
        a0, a1, z0, z1 = area
        if a0 < 0 or a1 > self.length:
            return False
        return all(a1 + gap <= b0 or b1 + gap <= a0 or z1 + gap <= y0 or y1 + gap <= z0 for b0, b1, y0, y1 in self.used)


@dataclass
class Placed:
    """One object in the room.

    Attributes:
        name, item: its key in the catalogue, and that entry.
        matrix: [4, 4], object to room.
        builder: its surfaces.
        wall, at: index of the wall it stands at and its place along it, or (-1, 0).
        busy: rectangles (x0, y0, x1, y1) that things already take, per support.
    """

    name: str
    item: Item
    size: Size
    matrix: Float64Array
    builder: SurfaceBuilder
    wall: int = -1
    at: float = 0.0
    busy: dict[int, list[Rectangle]] = field(default_factory=dict)
    filled: int = 0

    @property
    def corners(self) -> Float64Array:
        """[4, 2], its footprint in the room."""
        return footprint(self.matrix, self.size)


def pose(x: float, y: float, z: float, front: Float64Array) -> Float64Array:
    """Object-to-room matrix for an origin and the unit direction [2] of its front."""
    matrix = np.eye(4)
    matrix[:2, 0] = front[1], -front[0]
    matrix[:2, 1] = front
    matrix[:3, 3] = x, y, z
    return matrix


def footprint(matrix: Float64Array, size: Size, front: float = 0.0) -> Float64Array:
    """[4, 2] corners on the floor, lengthened by `front` metres to the front."""
    w, d = size[0] / 2, size[1] / 2
    local = np.array([[-w, -d], [w, -d], [w, d + front], [-w, d + front]])
    return np.asarray(local @ matrix[:2, :2].T + matrix[:2, 3])


@dataclass
class FloorPlan:
    """The outline and what stands on the floor, on a raster of 5 cm.

    Attributes:
        outline: [4 or 6, 2] corners.    walls: one per side, in order.
        height: of the walls.
        inside, taken, kept: [X, Y] bool; `kept` stays free of furniture, but people may walk there.
    """

    outline: Float64Array
    walls: list[Wall]
    height: float
    inside: BoolArray
    taken: BoolArray
    kept: BoolArray

    def _cells(self, corners: Float64Array, spacing: float = 0.04) -> tuple[Float64Array, Float64Array]:
        """Raster cells under a parallelogram, as two index arrays (may lie outside of the raster)."""
        a, b = corners[1] - corners[0], corners[3] - corners[0]
        nu, nv = (max(2, int(np.ceil(np.hypot(*e) / spacing)) + 1) for e in (a, b))
        s, t = np.linspace(0.001, 0.999, nu)[:, None, None], np.linspace(0.001, 0.999, nv)[None, :, None]
        cells = np.floor((corners[0] + s * a + t * b).reshape(-1, 2) / CELL).astype(np.int64)
        return cells[:, 0], cells[:, 1]

    def fits(self, corners: Float64Array, *, kept: bool = True) -> bool:
        """Whether a parallelogram [4, 2] lies inside and on nothing (and, with `kept`, on no kept space)."""
        i, j = self._cells(corners)
        if i.min() < 0 or j.min() < 0 or i.max() >= self.inside.shape[0] or j.max() >= self.inside.shape[1]:
            return False
        blocked = self.taken[i, j] | ~self.inside[i, j]
        return not bool((blocked | self.kept[i, j] if kept else blocked).any())

    def take(self, corners: Float64Array, *, keep: bool = False) -> None:
        """Mark a parallelogram as taken, or as kept free."""
        i, j = self._cells(corners)
        ok = (i >= 0) & (j >= 0) & (i < self.inside.shape[0]) & (j < self.inside.shape[1])
        (self.kept if keep else self.taken)[i[ok], j[ok]] = True


def draw_plan(kind: RoomType, book: RoomBook, rng: np.random.Generator) -> FloorPlan:
    """A rectangle or an L."""
    w, d = rng.uniform(*kind.width), rng.uniform(*kind.depth)
    outline = np.array([[0, 0], [w, 0], [w, d], [0, d]], np.float64)
    if rng.random() < kind.l_shape:
        x, y = w * rng.uniform(0.55, 0.72), d * rng.uniform(0.5, 0.7)
        outline = np.array([[0, 0], [w, 0], [w, y], [x, y], [x, d], [0, d]])
        if rng.random() < 0.5:  # the mirror image, still counter-clockwise
            outline = (np.array([w, 0]) + outline * np.array([-1, 1]))[::-1].copy()
    shape = (int(np.ceil(w / CELL)), int(np.ceil(d / CELL)))
    inside = np.ones(shape, bool)
    if len(outline) == 6:
        centre_x, centre_y = (np.arange(shape[0]) + 0.5) * CELL, (np.arange(shape[1]) + 0.5) * CELL
        notch = next(p for k, p in enumerate(outline) if _turn(outline, k) < 0)
        far = next(c for c in ([0, 0], [w, 0], [w, d], [0, d]) if not (np.isclose(outline, c).all(axis=1)).any())
        cut_x = (centre_x - notch[0]) * (far[0] - notch[0]) > 0
        cut_y = (centre_y - notch[1]) * (far[1] - notch[1]) > 0
        inside &= ~(cut_x[:, None] & cut_y[None, :])
    walls = []
    for a, b in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        length = float(np.hypot(*(b - a)))
        walls.append(Wall(a, (b - a) / length, length))
    height = float(rng.uniform(*book.height))
    return FloorPlan(outline, walls, height, inside, np.zeros(shape, bool), np.zeros(shape, bool))


def _turn(outline: Float64Array, k: int) -> float:
    a, b, c = outline[k - 1], outline[k], outline[(k + 1) % len(outline)]
    return float((b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]))


def build_shell(plan: FloorPlan, rng: np.random.Generator, spacing: float) -> list[tuple[str, SurfaceBuilder]]:
    """Floor, ceiling and walls (with their openings cut out): kind and surfaces of each."""
    parts: list[tuple[str, SurfaceBuilder]] = []
    lows = plan.outline.min(axis=0)
    xs, ys = np.unique(plan.outline[:, 0]), np.unique(plan.outline[:, 1])
    for kind, z in (("floor", 0.0), ("ceiling", plan.height)):
        b = SurfaceBuilder(rng, spacing)
        material = b.material()
        for x0, x1 in pairwise(xs):
            for y0, y1 in pairwise(ys):
                i, j = int(((x0 + x1) / 2 - lows[0]) / CELL), int(((y0 + y1) / 2 - lows[1]) / CELL)
                if plan.inside[i, j]:
                    b.box((x0, y0, z), (x1, y1, z), material, "Z" if kind == "floor" else "z")
        parts.append((kind, b))
    paint = SurfaceBuilder(rng, spacing)
    paint.material()
    for wall in plan.walls:
        b = SurfaceBuilder(rng, spacing)
        b.materials.append(paint.materials[0])
        if rng.random() < 0.15:
            b.materials[0] = b.materials[b.material()]
        for a0, a1, z0, z1 in _around_openings(wall, plan.height):
            start = wall.start + wall.along * a1
            b.quad((*start, z0), (*(wall.along * (a0 - a1)), 0.0), (0, 0, z1 - z0), 0)
        parts.append(("wall", b))
    return parts


def _around_openings(wall: Wall, height: float) -> list[Rectangle]:
    """The wall less its openings, as rectangles."""
    areas, at = [], 0.0
    for a0, a1, z0, z1 in sorted(wall.openings):
        areas += [(at, a0, 0.0, height), (a0, a1, 0.0, z0), (a0, a1, z1, height)]
        at = a1
    areas.append((at, wall.length, 0.0, height))
    return [area for area in areas if area[1] - area[0] > 1e-6 and area[3] - area[2] > 1e-6]


def support_spot(parent: Placed, size: Size, rng: np.random.Generator) -> tuple[int, float, float, Support] | None:
    """A free place for a w x d thing on one of the parent's supports: (support, x, y, that support)."""
    supports = parent.builder.supports
    if not supports:
        return None
    for _ in range(6):
        number = int(rng.integers(len(supports)))
        s = supports[number]
        room = (s.high[0] - s.low[0] - size[0], s.high[1] - s.low[1] - size[1])
        if min(room) < 0 or size[2] > s.clearance:
            continue
        x, y = (s.low[k] + size[k] / 2 + rng.random() * room[k] for k in (0, 1))
        area = (x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2)
        others = parent.busy.setdefault(number, [])
        if all(area[2] <= o[0] or o[2] <= area[0] or area[3] <= o[1] or o[3] <= area[1] for o in others):
            others.append(area)
            return number, float(x), float(y), s
    return None


def against_wall(wall: Wall, at: float, size: Size, z: float = 0.0) -> Float64Array:
    """Matrix of an object whose back touches the wall at `at` metres along it."""
    x, y = wall.start + wall.along * at + wall.inward * (size[1] / 2 + (_CLEAR_WALL if z == 0.0 else 0.0))
    return pose(float(x), float(y), z, wall.inward)
