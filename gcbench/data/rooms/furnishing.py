"""Fills a floor plan with furniture by simple rules: each line of a room type is tried until it fits or is given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from gcbench.data.rooms import fittings, furniture
from gcbench.data.rooms.catalogue import Catalogue, Content, RoomType
from gcbench.data.rooms.furniture import Size
from gcbench.data.rooms.layout import (
    FloorPlan,
    Placed,
    against_wall,
    draw_plan,
    footprint,
    pose,
    support_spot,
)
from gcbench.data.rooms.surfaces import SurfaceBuilder
from gcbench.errors import DataError
from gcbench.structures import Float64Array

_ATTEMPTS = 60
_LAYOUTS = 40
_TURNED = np.array([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])


@dataclass
class Furnishing:
    """A room being furnished."""

    plan: FloorPlan
    catalogue: Catalogue
    rng: np.random.Generator
    spacing: float
    placed: list[Placed] = field(default_factory=list)

    def size_of(self, name: str) -> Size:
        w, d, h = (float(self.rng.uniform(*span)) for span in self.catalogue.furniture.items[name].size)
        return (w, d, min(h, self.plan.height - 0.05))

    def add(self, name: str, size: Size, matrix: Float64Array, wall: int = -1, at: float = 0.0) -> Placed:
        """Build the object and put it in; the floor is not marked here."""
        item = self.catalogue.furniture.items[name]
        builder = SurfaceBuilder(self.rng, self.spacing)
        shape: Callable[[SurfaceBuilder, Size], None] | None = getattr(furniture, item.shape, None)
        (shape or getattr(fittings, item.shape))(builder, size)
        thing = Placed(name, item, size, matrix, builder, wall, at)
        self.placed.append(thing)
        return thing

    def stand(self, name: str, size: Size, matrix: Float64Array, wall: int = -1, at: float = 0.0, *,
              kept: bool = True) -> bool:  # fmt: skip
        """Put an object on the floor if its footprint and the space in front of it are free."""
        clear = self.catalogue.furniture.items[name].clear
        corners, reach = footprint(matrix, size), footprint(matrix, size, clear)
        if not self.plan.fits(corners, kept=kept) or (clear > 0 and not self.plan.fits(reach, kept=False)):
            return False
        self.add(name, size, matrix, wall, at)
        self.plan.take(corners)
        if clear > 0:
            self.plan.take(reach, keep=True)
        return True

    def parents(self, content: Content) -> list[Placed]:
        return [thing for thing in self.placed if thing.name in content.parents]

    def fill(self, content: Content) -> int:
        """Try one line of a room type; returns how many objects were placed."""
        parents: list[Placed | None] = [*self.parents(content)]
        if content.of is None or not content.each:
            parents = [None] if content.of is None else parents[:0] + ([parents[0]] if parents else [])
        total = 0
        for parent in parents:
            wanted, done = int(self.rng.integers(content.count[0], content.count[1] + 1)), 0
            for _ in range(_ATTEMPTS):
                if done >= wanted:
                    break
                chosen = parent
                if parent is not None and not content.each:
                    every = self.parents(content)
                    chosen = every[int(self.rng.integers(len(every)))]
                name = content.items[int(self.rng.integers(len(content.items)))]
                done += bool(_RULES[content.place](self, name, self.size_of(name), chosen))
            total += done
        return total


def _opening(room: Furnishing, name: str, size: Size, _: Placed | None) -> bool:
    number = int(room.rng.integers(len(room.plan.walls)))
    wall = room.plan.walls[number]
    if wall.length < size[0] + 0.4:
        return False
    at = float(room.rng.uniform(0.2 + size[0] / 2, wall.length - 0.2 - size[0] / 2))
    z = float(room.rng.uniform(*room.catalogue.furniture.items[name].z))
    area = (at - size[0] / 2, at + size[0] / 2, z, z + size[2])
    if not wall.is_free((area[0] - 0.1, area[1] + 0.1, z, z + size[2])) or z + size[2] > room.plan.height - 0.05:
        return False
    matrix = against_wall(wall, at, (size[0], size[1], size[2]), max(z, 1e-9))
    clear = room.catalogue.furniture.items[name].clear
    if clear > 0:
        front = footprint(matrix, size, clear)
        if not room.plan.fits(np.array([front[0] + 0.02 * wall.inward, front[1] + 0.02 * wall.inward, *front[2:]])):
            return False
        room.plan.take(front, keep=True)
    wall.used.append(area)
    wall.openings.append(area)
    room.add(name, size, matrix, number, at)
    return True


def _wall(room: Furnishing, name: str, size: Size, _: Placed | None) -> bool:
    number = int(room.rng.integers(len(room.plan.walls)))
    wall = room.plan.walls[number]
    half = size[0] / 2 + 0.03
    if wall.length < 2 * half:
        return False
    at = float(room.rng.uniform(half, wall.length - half))
    if room.rng.random() < 0.4:
        at = half if room.rng.random() < 0.5 else wall.length - half
    return _stand_at(room, name, size, number, at)


def _stand_at(room: Furnishing, name: str, size: Size, number: int, at: float) -> bool:
    wall = room.plan.walls[number]
    area = (at - size[0] / 2, at + size[0] / 2, 0.0, size[2])
    if not wall.is_free(area, gap=0.0):
        return False
    if not room.stand(name, size, against_wall(wall, at, size), number, at):
        return False
    wall.used.append(area)
    return True


def _free(room: Furnishing, name: str, size: Size, _: Placed | None) -> bool:
    low, high = room.plan.outline.min(axis=0), room.plan.outline.max(axis=0)
    x, y = room.rng.uniform(low + 0.3, high - 0.3)
    front = _TURNED[int(room.rng.integers(4))]
    return room.stand(name, size, _jitter(room, pose(float(x), float(y), 0.0, front), 0.15))


def _jitter(room: Furnishing, matrix: Float64Array, angle: float) -> Float64Array:
    a = float(room.rng.normal(0, angle))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return np.asarray(matrix @ turn)


def _beside(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    assert parent is not None
    side = room.rng.choice([-1, 1])
    gap = float(room.rng.uniform(0.03, 0.15))
    if parent.wall < 0:
        return False
    return _stand_at(room, name, size, parent.wall, parent.at + side * (parent.size[0] / 2 + size[0] / 2 + gap))


def _around(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    """At one of the four sides of the parent, facing it, a little pushed under or pulled out."""
    assert parent is not None
    side = int(room.rng.integers(4))
    w, d = parent.size[0] / 2, parent.size[1] / 2
    gap = float(room.rng.uniform(-0.1, 0.25)) + size[1] / 2
    if side < 2:
        local = np.array([room.rng.uniform(-1, 1) * max(w - size[0] / 2, 0), (d + gap) * (1, -1)[side], 0, 1])
    else:
        local = np.array([(w + gap) * (1, -1)[side - 2], room.rng.uniform(-1, 1) * max(d - size[0] / 2, 0), 0, 1])
    x, y = (parent.matrix @ local)[:2]
    front = parent.matrix[:2, :2] @ -(np.array([[0, 1], [0, -1], [1, 0], [-1, 0]], np.float64)[side])
    matrix = _jitter(room, pose(float(x), float(y), 0.0, front), 0.12)
    return _stand_under(room, name, size, matrix, parent)


def _stand_under(room: Furnishing, name: str, size: Size, matrix: Float64Array, parent: Placed) -> bool:
    """Like `stand`, but the front may reach under the parent's edge: only the rear part must be free."""
    rear = footprint(matrix, size)
    middle = 0.5 * (rear[0] + rear[3]), 0.5 * (rear[1] + rear[2])
    if not room.plan.fits(np.array([rear[0], rear[1], middle[1], middle[0]]), kept=False):
        return False
    others = [thing for thing in room.placed if thing is not parent and thing.size[2] > 0.2]
    centre = rear.mean(axis=0)
    if any(np.hypot(*(thing.matrix[:2, 3] - centre)) < 0.45 for thing in others if thing.wall < 0):
        return False
    room.add(name, size, matrix)
    room.plan.take(rear)
    return True


def _front(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    """Before the parent: chairs face it, low tables lie along it."""
    assert parent is not None
    chair = size[2] > 0.7
    gap = float(room.rng.uniform(-0.15, 0.2) if chair else room.rng.uniform(0.25, 0.5))
    x = float(room.rng.normal(0, 0.08 + 0.05 * parent.size[0]))
    local = np.array([x, parent.size[1] / 2 + gap + size[1] / 2, 0, 1])
    at = parent.matrix @ local
    front = -parent.matrix[:2, 1] if chair else parent.matrix[:2, 1]
    matrix = _jitter(room, pose(float(at[0]), float(at[1]), 0.0, front), 0.2 if chair else 0.05)
    if chair:
        return _stand_under(room, name, size, matrix, parent)
    return room.stand(name, size, matrix, kept=False)


def _along(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    """Hanging along the front edge of the parent: a shower curtain at its tub, drawn back in part."""
    assert parent is not None
    w = parent.size[0] * float(room.rng.uniform(0.35, 0.7))
    x = float(room.rng.choice([-1, 1])) * (parent.size[0] - w) / 2
    z = float(room.rng.uniform(*room.catalogue.furniture.items[name].z))
    at = parent.matrix @ np.array([x, parent.size[1] / 2 + 0.02, 0, 1])
    hung = (w, size[1], min(size[2], room.plan.height - z - 0.1))
    room.add(name, hung, pose(float(at[0]), float(at[1]), z, parent.matrix[:2, 1]))
    return True


def _on(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    assert parent is not None
    spot = support_spot(parent, size, room.rng)
    if spot is None:
        return False
    _, x, y, support = spot
    local = np.eye(4)
    local[:3, 3] = x, y, support.z
    matrix = parent.matrix @ local
    room.add(name, size, _jitter(room, matrix, 0.12 if max(size[:2]) > 0.35 else 0.5))
    return True


def _in(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    """Fill the parent's next slot: the object takes the slot's width and depth, and its height where it is lower."""
    assert parent is not None
    slots = parent.builder.slots
    if parent.filled >= len(slots):
        return False
    slot = slots[parent.filled]
    parent.filled += 1
    fitted = (slot.high[0] - slot.low[0], slot.high[1] - slot.low[1], min(slot.clearance, size[2]))
    local = np.eye(4)
    local[:3, 3] = (slot.low[0] + slot.high[0]) / 2, (slot.low[1] + slot.high[1]) / 2, slot.z
    room.add(name, fitted, parent.matrix @ local)
    return True


def _hang(room: Furnishing, name: str, size: Size, _: Placed | None) -> bool:
    number = int(room.rng.integers(len(room.plan.walls)))
    at = float(room.rng.uniform(0, room.plan.walls[number].length))
    return _hang_at(room, name, size, number, at)


def _hang_at(room: Furnishing, name: str, size: Size, number: int, at: float) -> bool:
    wall, item = room.plan.walls[number], room.catalogue.furniture.items[name]
    z = float(room.rng.uniform(*item.z))
    area = (at - size[0] / 2, at + size[0] / 2, z, z + size[2])
    if not wall.is_free(area, gap=0.04) or area[3] > room.plan.height - 0.05:
        return False
    wall.used.append(area)
    room.add(name, size, against_wall(wall, at, size, max(z, 1e-9)), number, at)
    return True


def _above(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    assert parent is not None
    reach = max(parent.size[0] - size[0], 0.0) / 2
    return parent.wall >= 0 and _hang_at(
        room, name, size, parent.wall, parent.at + float(room.rng.uniform(-reach, reach))
    )


def _flank(room: Furnishing, name: str, size: Size, parent: Placed | None) -> bool:
    """Hanging beside an opening and over its edge: curtains."""
    assert parent is not None
    wall, side = room.plan.walls[parent.wall], float(room.rng.choice([-1, 1]))
    at = parent.at + side * (parent.size[0] / 2 + size[0] * float(room.rng.uniform(-0.2, 0.35)))
    a0, a1 = at - size[0] / 2, at + size[0] / 2
    if a0 < 0 or a1 > wall.length:
        return False
    top = min(float(parent.matrix[2, 3]) + parent.size[2] + 0.12, room.plan.height - 0.06)
    low = 0.05 if room.rng.random() < 0.6 else max(float(parent.matrix[2, 3]) - 0.2, 0.05)
    rest = [area for area in wall.used if area not in wall.openings]
    if not replace(wall, used=rest).is_free((a0, a1, low, top), gap=0.0):
        return False
    matrix = against_wall(wall, at, (size[0], size[1] + 0.16, size[2]), low)
    if low < 0.3 and not room.plan.fits(footprint(matrix, size)):
        return False
    room.add(name, (size[0], size[1], top - low), matrix, parent.wall, at)
    wall.used.append((a0, a1, low, top))
    room.plan.take(footprint(matrix, size))
    return True


def _span(room: Furnishing, name: str, size: Size, _: Placed | None) -> bool:
    """Right across the room below the ceiling: beams."""
    low, high = room.plan.outline.min(axis=0), room.plan.outline.max(axis=0)
    along = int(room.rng.integers(2))
    length = float(high[along] - low[along])
    centre = (low + high) / 2
    centre[1 - along] = low[1 - along] + room.rng.uniform(0.2, 0.8) * (high - low)[1 - along]
    front = np.array([1.0, 0.0]) if along == 1 else np.array([0.0, 1.0])
    matrix = pose(float(centre[0]), float(centre[1]), room.plan.height - size[2], front)
    corners = footprint(matrix, (length - 0.1, size[1], size[2]))
    cells = np.floor(corners / 0.05).astype(int)
    if not room.plan.inside[cells[:, 0], cells[:, 1]].all():
        return False
    room.add(name, (length, size[1], size[2]), matrix)
    return True


_RULES: dict[str, Callable[[Furnishing, str, Size, Placed | None], bool]] = {
    "opening": _opening,
    "wall": _wall,
    "free": _free,
    "beside": _beside,
    "around": _around,
    "front": _front,
    "along": _along,
    "on": _on,
    "in": _in,
    "hang": _hang,
    "above": _above,
    "flank": _flank,
    "span": _span,
}


def furnish(kind: RoomType, catalogue: Catalogue, rng: np.random.Generator, spacing: float) -> Furnishing:
    """A furnished room of this type: laid out anew until everything required is in.

    Raises:
        DataError: the type's required contents do not fit into its size in many attempts.
    """
    missing = ""
    for _ in range(_LAYOUTS):
        room = Furnishing(draw_plan(kind, catalogue.rooms, rng), catalogue, rng, spacing)
        for content in (*kind.contents, *catalogue.rooms.shared):
            if room.fill(content) < content.required:
                missing = " or ".join(content.items)
                break
        else:
            return room
    raise DataError(f"A room type cannot hold its required '{missing}'.", "Enlarge the room or lower `required`.")
