"""Surfaces of a room: patches, each a grid of vertices, put together into objects and then into one mesh.

Shape legend
    U, V  cells of a patch along its two directions      N  vertices      F  fine triangles      T  coarse triangles

An object is built in its own frame: metres, origin on the floor at the middle of its footprint, x to the right, y to
the front (its back, at -depth / 2, may stand against a wall), z up. Flat patches are traced as two triangles, curved
ones as their fine triangles; both carry the patch's grid coordinates, so shading is looked up in the same grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from gcbench.data.rooms.textures import draw_material
from gcbench.structures import Float32Array, Float64Array, Int32Array

Vector = Sequence[float]


@dataclass
class Patch:
    """A grid surface: points [U + 1, V + 1, 3] and texture coordinates [U + 1, V + 1, 2], both metres."""

    points: Float64Array
    uv: Float64Array
    material: int
    flat: bool


@dataclass(frozen=True)
class Support:
    """A level rectangle on which things may stand or lie: [low x, low y, high x, high y], height, room above it."""

    low: tuple[float, float]
    high: tuple[float, float]
    z: float
    clearance: float = 1.0


@dataclass
class SurfaceBuilder:
    """Collects the patches of one object, with its random materials.

    Attributes:
        rng: the source of all randomness of this object.
        spacing: vertex spacing, metres.
        supports: where other objects may stand on this one.
        slots: what other objects fill: a basin's hole, the compartments of a shelf.
    """

    rng: np.random.Generator
    spacing: float
    patches: list[Patch] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)
    slots: list[Support] = field(default_factory=list)
    materials: list[Float64Array] = field(default_factory=list)

    def material(self, kind: int | None = None) -> int:
        """A new random material; returns its number within this object."""
        self.materials.append(draw_material(self.rng, kind=kind))
        return len(self.materials) - 1

    def support(self, low: Vector, high: Vector, z: float, clearance: float = 1.0) -> None:
        self.supports.append(Support((low[0], low[1]), (high[0], high[1]), z, clearance))

    def slot(self, low: Vector, high: Vector, z: float, clearance: float) -> None:
        self.slots.append(Support((low[0], low[1]), (high[0], high[1]), z, clearance))

    def grid(self, points: Float64Array, material: int, *, flat: bool = False) -> None:
        """A curved patch through points [U + 1, V + 1, 3]; texture coordinates follow its edge lengths."""
        du = np.linalg.norm(np.diff(points, axis=0), axis=2).mean(axis=1)
        dv = np.linalg.norm(np.diff(points, axis=1), axis=2).mean(axis=0)
        u = np.concatenate([[0.0], np.cumsum(du)])
        v = np.concatenate([[0.0], np.cumsum(dv)])
        uv = np.stack(np.broadcast_arrays(u[:, None], v[None, :]), axis=2) + self._shift(material)
        self.patches.append(Patch(points, uv, material, flat))

    def quad(self, origin: Vector, edge_u: Vector, edge_v: Vector, material: int) -> None:
        """A parallelogram whose front side is edge_u x edge_v."""
        o, eu, ev = np.array(origin, np.float64), np.array(edge_u, np.float64), np.array(edge_v, np.float64)
        length_u, length_v = math.sqrt(float(eu @ eu)), math.sqrt(float(ev @ ev))
        nu, nv = (max(1, math.ceil(length / self.spacing - 0.2)) for length in (length_u, length_v))
        s, t = np.arange(nu + 1) / nu, np.arange(nv + 1) / nv
        points = (o + s[:, None] * eu)[:, None] + t[:, None] * ev
        uv = np.empty((nu + 1, nv + 1, 2))
        uv[:, :, 0], uv[:, :, 1] = (length_u * s)[:, None], length_v * t
        self.patches.append(Patch(points, uv + self._shift(material), material, True))

    def box(self, low: Vector, high: Vector, material: int, faces: str = "xXyYZ") -> None:
        """An axis-aligned box; `faces` names the ones to make (small letter: low side, capital: high side)."""
        x0, y0, z0 = low
        dx, dy, dz = high[0] - x0, high[1] - y0, high[2] - z0
        if "x" in faces:
            self.quad((x0, y0 + dy, z0), (0, -dy, 0), (0, 0, dz), material)
        if "X" in faces:
            self.quad((x0 + dx, y0, z0), (0, dy, 0), (0, 0, dz), material)
        if "y" in faces:
            self.quad((x0, y0, z0), (dx, 0, 0), (0, 0, dz), material)
        if "Y" in faces:
            self.quad((x0 + dx, y0 + dy, z0), (-dx, 0, 0), (0, 0, dz), material)
        if "z" in faces:
            self.quad((x0, y0 + dy, z0), (dx, 0, 0), (0, -dy, 0), material)
        if "Z" in faces:
            self.quad((x0, y0, z0 + dz), (dx, 0, 0), (0, dy, 0), material)

    def cushion(self, low: Vector, high: Vector, material: int, radius: float) -> None:
        """A box with rounded edges and a slightly uneven skin."""
        lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
        r = min(radius, 0.499 * float((hi - lo).min()))
        start = len(self.patches)
        self.box(low, high, material, "xXyYzZ")
        bump, phase = self.rng.uniform(0.0, 0.012), self.rng.uniform(0, 6, 3)
        for patch in self.patches[start:]:
            inner = np.clip(patch.points, lo + r, hi - r)
            out = patch.points - inner
            out /= np.maximum(np.linalg.norm(out, axis=2, keepdims=True), 1e-9)
            wave = np.sin(patch.points @ np.array([11.0, 9.0, 7.0]) + phase[0]) * np.sin(
                patch.points @ np.array([-7.0, 10.0, 8.0]) + phase[1]
            )
            patch.points = inner + out * (r + bump * wave[..., None])
            patch.flat = False

    def lathe(self, profile: Sequence[Vector], centre: Vector, material: int, stretch: Vector = (1, 1)) -> None:
        """Turn a profile of (radius, z) pairs, bottom to top outside, round the z axis through `centre` (x, y)."""
        rz = np.asarray(profile, np.float64)
        steps = [rz[:1]]
        for a, b in pairwise(rz):
            n = max(1, int(np.ceil(np.linalg.norm(b - a) / self.spacing - 0.3)))
            steps.append(a + (b - a) * np.linspace(0, 1, n + 1)[1:, None])
        rz = np.concatenate(steps)
        around = max(8, int(np.ceil(2 * np.pi * rz[:, 0].max() * max(stretch) / self.spacing)))
        angle = np.linspace(0, 2 * np.pi, around + 1)
        x = centre[0] + stretch[0] * np.cos(angle)[:, None] * rz[None, :, 0]
        y = centre[1] + stretch[1] * np.sin(angle)[:, None] * rz[None, :, 0]
        z = np.broadcast_to(rz[None, :, 1], x.shape)
        self.grid(np.stack([x, y, z], axis=2), material)

    def hanging_cloth(self, width: float, z: tuple[float, float], y: float, depth: float, material: int) -> None:
        """A curtain in folds of `depth`, seen from the front; the wall lies behind it."""
        n = max(8, int(width / (0.6 * self.spacing)))
        m = max(2, int((z[1] - z[0]) / self.spacing))
        x = np.linspace(width / 2, -width / 2, n + 1)
        height = np.linspace(z[0], z[1], m + 1)
        waves, phase = self.rng.uniform(5, 9) * 2 * np.pi, self.rng.uniform(0, 6)
        swing = 0.5 * depth * np.sin(waves * x[:, None] + phase + 0.4 * np.sin(3 * height[None, :]))
        points = np.stack(
            [np.broadcast_to(x[:, None], swing.shape), y + swing, np.broadcast_to(height, swing.shape)], axis=2
        )
        self.grid(points, material)

    def _shift(self, material: int) -> Float64Array:
        """A texture offset per patch, so that neighbouring boards do not show the same grain."""
        row = self.materials[material]
        return np.array([0.37, 0.61]) * (len(self.patches) % 7) + row[14] % 5 if row[0] in (3, 4) else np.zeros(2)


@dataclass(frozen=True)
class RoomMesh:
    """All surfaces of a room.

    Attributes:
        points, normals: [N, 3] float32.    uv: [N, 2] float32.
        vertex_patch: [N] int32.    faces: [F, 3] int32.
        patches: [P, 5] int32: first vertex, U, V, material, object.
        materials: [materials, 15] float64.
        coarse: [T, 3, 3] float32 corners of the traced triangles.
        coarse_grid: [T, 6] float32, grid coordinates (s, t) of the three corners.    coarse_patch: [T] int32.
    """

    points: Float32Array
    normals: Float32Array
    uv: Float32Array
    vertex_patch: Int32Array
    faces: Int32Array
    patches: Int32Array
    materials: Float64Array
    coarse: Float32Array
    coarse_grid: Float32Array
    coarse_patch: Int32Array

    @property
    def vertex_object(self) -> Int32Array:
        """[N] int32, the object each vertex belongs to."""
        return np.asarray(self.patches[self.vertex_patch, 4], np.int32)


def _normals(patch: Patch) -> Float64Array:
    """Vertex normals [U + 1, V + 1, 3], from the grid's differences."""
    if patch.flat:
        p = patch.points
        normal = np.cross(p[-1, 0] - p[0, 0], p[0, -1] - p[0, 0])
        return np.broadcast_to(normal / max(float(np.linalg.norm(normal)), 1e-12), p.shape)
    du, dv = np.gradient(patch.points, axis=0), np.gradient(patch.points, axis=1)
    normal = np.cross(du, dv)
    length = np.linalg.norm(normal, axis=2, keepdims=True)
    mean = normal.sum(axis=(0, 1))
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    return np.asarray(np.where(length > 1e-9, normal / np.maximum(length, 1e-9), mean))


def _cells(nu: int, nv: int) -> Int32Array:
    """Fine triangles of a grid, [2 U V, 3], counter-clockwise seen from the front."""
    i, j = np.meshgrid(np.arange(nu), np.arange(nv), indexing="ij")
    a = (i * (nv + 1) + j).ravel()
    b, c, d = a + nv + 1, a + nv + 2, a + 1
    return np.stack([np.stack([a, b, c], 1), np.stack([a, c, d], 1)], 1).reshape(-1, 3).astype(np.int32)


def assemble(builders: Sequence[SurfaceBuilder], placements: Sequence[Float64Array]) -> RoomMesh:
    """Put objects, each with its object-to-room matrix [4, 4], into one mesh; object k is builder k."""
    points, normals, uvs, rows, faces, owners = [], [], [], [], [], []
    coarse, coarse_grid, coarse_patch = [], [], []
    first, material_base, patch_number = 0, 0, 0
    for number, (builder, matrix) in enumerate(zip(builders, placements, strict=True)):
        rotation, shift = matrix[:3, :3], matrix[:3, 3]
        for patch in builder.patches:
            nu, nv = patch.points.shape[0] - 1, patch.points.shape[1] - 1
            placed = patch.points.reshape(-1, 3) @ rotation.T + shift
            points.append(placed)
            normals.append(_normals(patch).reshape(-1, 3) @ rotation.T)
            uvs.append(patch.uv.reshape(-1, 2))
            cells = _cells(nu, nv)
            faces.append(cells + first)
            owners.append(np.full(len(placed), patch_number, np.int32))
            rows.append((first, nu, nv, material_base + patch.material, number))
            if patch.flat:
                corner = np.array([0, nu * (nv + 1), nu * (nv + 1) + nv, nv])
                cells = corner[np.array([[0, 1, 2], [0, 2, 3]])]
            coarse.append(placed[cells])
            coarse_grid.append(np.stack([cells // (nv + 1), cells % (nv + 1)], axis=2).reshape(-1, 6))
            coarse_patch.append(np.full(len(cells), patch_number, np.int32))
            first += len(placed)
            patch_number += 1
        material_base += len(builder.materials)
    return RoomMesh(
        points=np.concatenate(points).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        uv=np.concatenate(uvs).astype(np.float32),
        vertex_patch=np.concatenate(owners),
        faces=np.concatenate(faces),
        patches=np.array(rows, np.int32),
        materials=np.stack([row for builder in builders for row in builder.materials]),
        coarse=np.concatenate(coarse).astype(np.float32),
        coarse_grid=np.concatenate(coarse_grid).astype(np.float32),
        coarse_patch=np.concatenate(coarse_patch),
    )
