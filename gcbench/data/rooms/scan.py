"""From a room type to what a scanner brings home: a coloured mesh of what was seen, its objects, and frames.

Shape legend
    N  vertices of the scan      F  faces      O  objects      K  frames
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcbench.data.rooms.bvh import Hierarchy, build_hierarchy
from gcbench.data.rooms.camera import draw_intrinsic, measure_depth, photograph, walk
from gcbench.data.rooms.catalogue import Catalogue
from gcbench.data.rooms.furnishing import Furnishing, furnish
from gcbench.data.rooms.layout import build_shell
from gcbench.data.rooms.rendering import Lighting, color_vertices, light_vertices, render, seen_vertices
from gcbench.data.rooms.surfaces import RoomMesh, assemble
from gcbench.structures import Float32Array, Float64Array, Int32Array, UInt8Array, UInt16Array

SPACING = 0.045
_SCAN_VIEWS = 48
_SCAN_VIEW = np.array([np.tan(np.deg2rad(34)), np.tan(np.deg2rad(27)), 5.0])
_ALL_ROUND = np.array([0.0, 0.0, 12.0])


@dataclass(frozen=True)
class RoomObject:
    """A surface of the room or a piece of furniture: its raw category (None: not annotated) and S3DIS class."""

    label: str | None
    s3dis: str


@dataclass(frozen=True)
class RoomFrame:
    """One frame as files hold it: JPEG bytes, depth [H, W] in millimetres, camera-to-world [4, 4]."""

    jpeg: bytes
    depth: UInt16Array
    pose: Float64Array


@dataclass(frozen=True)
class ScannedRoom:
    """The scan, in the scanner's own frame (z up, turned by some angle).

    Attributes:
        points, normals: [N, 3] float32, metres.    colors: [N, 3] uint8.    faces: [F, 3] int32.
        owner: [N] int32, index into `objects`.    patch: [N] int32, the surface patch each vertex comes from.
        objects: O objects.
        alignment: [4, 4], scan to room axes.
        intrinsic: [3, 3] pixels.    frames: K frames.
    """

    points: Float32Array
    normals: Float32Array
    colors: UInt8Array
    faces: Int32Array
    owner: Int32Array
    patch: Int32Array
    objects: tuple[RoomObject, ...]
    alignment: Float64Array
    intrinsic: Float64Array
    frames: tuple[RoomFrame, ...]


def scan_room(type_name: str, catalogue: Catalogue, rng: np.random.Generator, *, frames: int,
              size: tuple[int, int], whole: bool) -> ScannedRoom:  # fmt: skip
    """Furnish a room of a type and scan it.

    Args:
        frames: number of RGB-D frames to take.
        size: their (width, height) in pixels.
        whole: scan all round from some standpoints, ceiling included and axes aligned, as S3DIS; else along a
            hand-held walk and turned by an angle, as ScanNet.

    Raises:
        DataError: see `furnish`.
    """
    kind = catalogue.rooms.types[type_name]
    room = furnish(kind, catalogue, rng, SPACING)
    shell = build_shell(room.plan, rng, SPACING)
    table = catalogue.labels
    objects = [RoomObject(table.surfaces[name], table.s3dis_surfaces[name]) for name, _ in shell]  # type: ignore[index]
    objects += [RoomObject(thing.item.label, thing.item.s3dis) for thing in room.placed]
    mesh = assemble(
        [builder for _, builder in shell] + [thing.builder for thing in room.placed],
        [np.eye(4)] * len(shell) + [thing.matrix for thing in room.placed],
    )
    tree = build_hierarchy(mesh.coarse)
    lighting = _draw_lighting(room, rng)
    scan_poses = walk(room.plan, tree, _SCAN_VIEWS, rng)
    poses = walk(room.plan, tree, frames, rng) if frames else np.zeros((0, 4, 4))
    if whole:
        eyes = scan_poses[:: _SCAN_VIEWS // 6, :3, 3].copy()
        seen = seen_vertices(mesh, tree, eyes, np.zeros((len(eyes), 9)), _ALL_ROUND)
    else:
        every = np.concatenate([scan_poses, poses])
        seen = seen_vertices(mesh, tree, every[:, :3, 3].copy(), _rotations(every), _SCAN_VIEW)
    wanted = _grow(mesh, _grow(mesh, seen))
    if not whole:  # photos show the ceiling, the scan does not hold it
        seen[mesh.vertex_object == [name for name, _ in shell].index("ceiling")] = 0
    light = light_vertices(mesh, tree, lighting, wanted)
    intrinsic = draw_intrinsic(size, rng)
    taken = _take_frames((mesh, tree, light, lighting.gamma), poses, intrinsic, size, rng)
    angle = 0.0 if whole else float(rng.uniform(-np.pi, np.pi))
    return _finish(mesh, seen, light, lighting.gamma, tuple(objects), (angle, intrinsic, taken), rng)


def _draw_lighting(room: Furnishing, rng: np.random.Generator) -> Lighting:
    """Lamps under the ceiling and daylight inside each window."""
    plan = room.plan
    cells = np.argwhere(plan.inside)
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = (cells[int(rng.integers(len(cells)))] + 0.5) * 0.05
        warm = rng.uniform(-0.12, 0.12)
        power = rng.uniform(0.7, 1.3)
        lamps.append([x, y, plan.height - 0.12, power * (1 + warm), power, power * (1 - warm), 0.25])
    for wall in plan.walls:
        for a0, a1, z0, z1 in wall.openings:
            if z0 > 0.3:
                x, y = wall.start + wall.along * (a0 + a1) / 2 + wall.inward * 0.25
                power = rng.uniform(0.3, 1.0)
                lamps.append([x, y, (z0 + z1) / 2, 0.95 * power, power, 1.08 * power, 0.45])
    array = np.array(lamps[:5])
    array[:, 3:6] *= 1.7 / max(1.0, array[:, 4].sum() / 1.3)
    ambient = rng.uniform(0.58, 0.82) * np.array([1, 1, 1 + rng.uniform(-0.06, 0.06)])
    return Lighting(array, ambient, float(rng.uniform(0.75, 0.95)))


def _rotations(poses: Float64Array) -> Float64Array:
    """[E, 9]: the rows of each world-to-camera rotation."""
    return np.ascontiguousarray(poses[:, :3, :3].transpose(0, 2, 1).reshape(-1, 9))


def _grow(mesh: RoomMesh, marked: UInt8Array) -> UInt8Array:
    """Marked vertices and all that share a face with one."""
    out = marked.copy()
    out[mesh.faces[marked[mesh.faces].any(axis=1)]] = 1
    return out


def _take_frames(surface: tuple[RoomMesh, Hierarchy, Float32Array, float], poses: Float64Array, intrinsic: Float64Array,
                 size: tuple[int, int], rng: np.random.Generator) -> tuple[RoomFrame, ...]:  # fmt: skip
    mesh, tree, light, gamma = surface
    frames = []
    for pose in poses:
        color, depth, cosine = render(mesh, tree, light, gamma, pose, intrinsic, size)
        frames.append(RoomFrame(photograph(color, rng), measure_depth(depth, cosine, rng), pose))
    return tuple(frames)


def _finish(
    mesh: RoomMesh,
    seen: UInt8Array,
    light: Float32Array,
    gamma: float,
    objects: tuple[RoomObject, ...],
    camera: tuple[float, Float64Array, tuple[RoomFrame, ...]],
    rng: np.random.Generator,
) -> ScannedRoom:
    """Keep what was seen, add the scanner's noise, and turn everything into the scanner's frame."""
    angle, intrinsic, frames = camera
    faces = mesh.faces[seen[mesh.faces].any(axis=1)]
    used = np.unique(faces)
    number = np.full(len(mesh.points), -1, np.int32)
    number[used] = np.arange(len(used), dtype=np.int32)
    points, normals = mesh.points[used].astype(np.float64), mesh.normals[used].astype(np.float64)
    wave = (
        0.002
        * np.sin(points @ np.array([4.1, 3.3, 2.7]) + rng.uniform(0, 6))
        * np.sin(points @ np.array([-2.9, 3.7, 5.3]))
    )
    points = points + normals * (wave + rng.normal(0, 0.0018, len(points)))[:, None]
    color = color_vertices(mesh, light, gamma, SPACING)[used] + rng.normal(0, 0.012, (len(used), 3))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    if angle:
        low = (points @ turn[:3, :3].T).min(axis=0)
        turn[:3, 3] = -low + [*rng.uniform(0.1, 0.6, 2), low[2] + rng.uniform(0.0, 0.1)]
    return ScannedRoom(
        points=(points @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32),
        normals=(normals @ turn[:3, :3].T).astype(np.float32),
        colors=np.rint(255 * np.clip(color, 0, 1)).astype(np.uint8),
        faces=number[faces],
        owner=mesh.vertex_object[used],
        patch=mesh.vertex_patch[used],
        objects=objects,
        alignment=np.asarray(np.linalg.inv(turn), np.float64),
        intrinsic=intrinsic,
        frames=tuple(RoomFrame(frame.jpeg, frame.depth, turn @ frame.pose) for frame in frames),
    )
