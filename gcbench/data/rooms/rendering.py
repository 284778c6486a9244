"""Light, visibility and RGB-D frames of a room mesh, by ray casting (numba kernels).

Light is diffuse: for every vertex the open part of the sky of its surroundings plus shadowed lamps, smoothed over each
patch's grid. Photos and vertex colours look it up in the same grids and use the same textures, so they agree.
Cameras are camera-to-world [4, 4] with OpenCV axes; pixel centres lie at whole numbers, as in ScanNet's files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from gcbench.data.rooms.bvh import Hierarchy, trace
from gcbench.data.rooms.surfaces import RoomMesh
from gcbench.data.rooms.textures import hash01, texture
from gcbench.structures import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class Lighting:
    """The lamps of a room.

    Attributes:
        lamps: [L, 7] float64: position (metres), colour times power (r, g, b), radius.
        ambient: [3] float64, light that comes from everywhere.
        gamma: exponent of the camera's response.
    """

    lamps: Float64Array
    ambient: Float64Array
    gamma: float


def light_vertices(mesh: RoomMesh, tree: Hierarchy, lighting: Lighting, wanted: UInt8Array) -> Float32Array:
    """Light [N, 3] float32 falling on every vertex; vertices not `wanted` [N] get the ambient light alone."""
    light = _light(
        mesh.points, mesh.normals, wanted, (tree.triangles, tree.boxes, tree.links), lighting.lamps, lighting.ambient
    )
    _smooth(mesh.patches, light)
    return np.asarray(light, np.float32)


def color_vertices(mesh: RoomMesh, light: Float32Array, gamma: float, spacing: float) -> Float32Array:
    """Colour [N, 3] in [0, 1]: the texture's mean around each vertex times its light."""
    material = mesh.patches[mesh.vertex_patch, 3]
    return np.asarray(_color(mesh.uv, mesh.materials, material, light, gamma, spacing), np.float32)


def seen_vertices(mesh: RoomMesh, tree: Hierarchy, eyes: Float64Array, directions: Float64Array, view: Float64Array,
                  offset: float = 0.006) -> UInt8Array:  # fmt: skip
    """1 for each vertex that some eye sees, [N] uint8.

    Args:
        eyes: [E, 3] positions.
        directions: [E, 9] the rows of each world-to-camera rotation.
        view: (tangent of half the horizontal angle, of half the vertical one, range in metres); a tangent of 0 is a
            view in all directions.
        offset: vertices are lifted off their surface by this many metres.
    """
    tree_arrays = (tree.triangles, tree.boxes, tree.links)
    return np.asarray(_seen(mesh.points, mesh.normals, tree_arrays, eyes, directions, view, offset), np.uint8)


def render(
    mesh: RoomMesh,
    tree: Hierarchy,
    light: Float32Array,
    gamma: float,
    camera_to_world: Float64Array,
    intrinsic: Float64Array,
    size: tuple[int, int],
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """One frame: colour [H, W, 3] in [0, 1], depth [H, W] metres (0 where nothing is hit), cosine of incidence [H, W].

    Args:
        intrinsic: [3, 3], pixels.
        size: (width, height) in pixels.
    """
    width, height = size
    color = np.zeros((height, width, 3), np.float32)
    depth, cosine = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    lens = np.array([intrinsic[0, 0], intrinsic[1, 1], intrinsic[0, 2], intrinsic[1, 2], gamma])
    surface = (mesh.patches, mesh.materials, mesh.uv, light)
    grid = (mesh.coarse_patch[tree.order], mesh.coarse_grid[tree.order])
    _render((tree.triangles, tree.boxes, tree.links), grid, surface, camera_to_world, lens, (color, depth, cosine))
    return color, depth, cosine


@njit(cache=True, nogil=True)
def _tangents(n):  # type: ignore[no-untyped-def]
    """Two directions that make a right-handed frame with the unit normal n."""
    sign = 1.0 if n[2] >= 0 else -1.0
    a = -1.0 / (sign + n[2])
    b = n[0] * n[1] * a
    return (1 + sign * n[0] * n[0] * a, sign * b, -sign * n[0]), (b, sign + n[1] * n[1] * a, -n[1])


@njit(cache=True, nogil=True)
def _openness(k, p, n, tree, stack):  # type: ignore[no-untyped-def]
    """Share of the cosine-weighted hemisphere that is free up to 0.9 m, from stratified rays."""
    rays, reach = 8, 0.9
    e1, e2 = _tangents(n)
    turn, free = hash01(k, 17, 3), 0.0
    for q in range(rays):
        r2 = (q + hash01(k, q, 5)) / rays
        angle = 2 * np.pi * (turn + q * 0.38196601)
        r, up = np.sqrt(r2), np.sqrt(1 - r2)
        c, s = r * np.cos(angle), r * np.sin(angle)
        d = (c * e1[0] + s * e2[0] + up * n[0], c * e1[1] + s * e2[1] + up * n[1], c * e1[2] + s * e2[2] + up * n[2])
        at, hit, _, _ = trace(tree[0], tree[1], tree[2], stack, p, d, reach, False)
        free += 1.0 if hit < 0 else 0.65 * at / reach
    return free / rays


@njit(cache=True, nogil=True)
def _light(points, normals, wanted, tree, lamps, ambient):  # type: ignore[no-untyped-def]
    """Ambient light by openness, plus each lamp (one shadow ray towards a point of its sphere)."""
    N = points.shape[0]
    out = np.zeros((N, 3), np.float32)
    stack = np.zeros(128, np.int32)
    for k in range(N):
        if wanted[k] == 0:
            for c in range(3):
                out[k, c] = 0.6 * ambient[c]
            continue
        nx, ny, nz = float(normals[k, 0]), float(normals[k, 1]), float(normals[k, 2])
        p = (points[k, 0] + 0.008 * nx, points[k, 1] + 0.008 * ny, points[k, 2] + 0.008 * nz)
        open_sky = _openness(k, p, (nx, ny, nz), tree, stack)
        level = 0.82 + 0.18 * nz
        for c in range(3):
            out[k, c] = ambient[c] * (0.25 + 0.75 * open_sky) * level
        for q in range(lamps.shape[0]):
            dx = lamps[q, 0] + lamps[q, 6] * (2 * hash01(k, q, 31) - 1) - p[0]
            dy = lamps[q, 1] + lamps[q, 6] * (2 * hash01(k, q, 37) - 1) - p[1]
            dz = lamps[q, 2] + 0.3 * lamps[q, 6] * (2 * hash01(k, q, 41) - 1) - p[2]
            square = dx * dx + dy * dy + dz * dz
            facing = (dx * nx + dy * ny + dz * nz) / np.sqrt(square)
            if facing <= 0.0:
                continue
            _, hit, _, _ = trace(tree[0], tree[1], tree[2], stack, p, (dx, dy, dz), 0.999, True)
            if hit < 0:
                for c in range(3):
                    out[k, c] += lamps[q, 3 + c] * facing / (1.0 + 0.35 * square)
    return out


@njit(cache=True, nogil=True)
def _smooth(patches, light):  # type: ignore[no-untyped-def]
    """Two passes of a 3 x 3 mean over each patch's grid: takes the sampling noise out of light and shadow."""
    for p in range(patches.shape[0]):
        first, rows, columns = patches[p, 0], patches[p, 1] + 1, patches[p, 2] + 1
        for _ in range(2):
            before = light[first : first + rows * columns].copy()
            for i in range(rows):
                for j in range(columns):
                    total, count = np.zeros(3), 0
                    for a in range(max(i - 1, 0), min(i + 2, rows)):
                        for b in range(max(j - 1, 0), min(j + 2, columns)):
                            count += 1
                            for c in range(3):
                                total[c] += before[a * columns + b, c]
                    for c in range(3):
                        light[first + i * columns + j, c] = total[c] / count


@njit(cache=True, nogil=True)
def _respond(value, gamma):  # type: ignore[no-untyped-def]
    """The camera's response: a soft shoulder, then a power."""
    value = max(value, 0.0)
    return (value / (1 + 0.18 * value * value)) ** gamma


@njit(cache=True, nogil=True)
def _color(uv, materials, material, light, gamma, spacing):  # type: ignore[no-untyped-def]
    out = np.zeros((uv.shape[0], 3), np.float32)
    for k in range(uv.shape[0]):
        row = materials[material[k]]
        for i in range(2):
            for j in range(2):
                u, v = uv[k, 0] + (i - 0.5) * 0.4 * spacing, uv[k, 1] + (j - 0.5) * 0.4 * spacing
                rgb = texture(row, u, v, 0.4 * spacing)
                for c in range(3):
                    out[k, c] += 0.25 * rgb[c]
        for c in range(3):
            out[k, c] = min(_respond(out[k, c] * light[k, c], gamma), 1.0)
    return out


@njit(cache=True, nogil=True)
def _seen(points, normals, tree, eyes, directions, view, offset):  # type: ignore[no-untyped-def]
    seen = np.zeros(points.shape[0], np.uint8)
    stack = np.zeros(128, np.int32)
    for k in range(points.shape[0]):
        nx, ny, nz = normals[k, 0], normals[k, 1], normals[k, 2]
        px, py, pz = points[k, 0] + offset * nx, points[k, 1] + offset * ny, points[k, 2] + offset * nz
        for e in range(eyes.shape[0]):
            dx, dy, dz = eyes[e, 0] - px, eyes[e, 1] - py, eyes[e, 2] - pz
            square = dx * dx + dy * dy + dz * dz
            if dx * nx + dy * ny + dz * nz <= 0.02 * np.sqrt(square) or square > view[2] * view[2]:
                continue
            if view[0] > 0:
                r = directions[e]
                depth = -(r[6] * dx + r[7] * dy + r[8] * dz)
                across, down = r[0] * dx + r[1] * dy + r[2] * dz, r[3] * dx + r[4] * dy + r[5] * dz
                if depth < 0.2 or abs(across) > view[0] * depth or abs(down) > view[1] * depth:
                    continue
            _, hit, _, _ = trace(tree[0], tree[1], tree[2], stack, (px, py, pz), (dx, dy, dz), 0.999, True)
            if hit < 0:
                seen[k] = 1
                break
    return seen


@njit(cache=True, nogil=True)
def _shade(surface, patch_number, s, t, width, gamma, out):  # type: ignore[no-untyped-def]
    """Colour at grid coordinates (s, t) of a patch, with light and texture coordinates taken bilinearly."""
    patches, materials, uv, light = surface
    patch = patches[patch_number]
    i = min(max(int(s), 0), patch[1] - 1)
    j = min(max(int(t), 0), patch[2] - 1)
    a, b = min(max(s - i, 0.0), 1.0), min(max(t - j, 0.0), 1.0)
    k = patch[0] + i * (patch[2] + 1) + j
    below = k + patch[2] + 1
    w00, w01, w10, w11 = (1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b
    u = w00 * uv[k, 0] + w01 * uv[k + 1, 0] + w10 * uv[below, 0] + w11 * uv[below + 1, 0]
    v = w00 * uv[k, 1] + w01 * uv[k + 1, 1] + w10 * uv[below, 1] + w11 * uv[below + 1, 1]
    rgb = texture(materials[patch[3]], u, v, width)
    for c in range(3):
        shine = w00 * light[k, c] + w01 * light[k + 1, c] + w10 * light[below, c] + w11 * light[below + 1, c]
        out[c] = min(_respond(rgb[c] * shine, gamma), 1.0)


@njit(cache=True, nogil=True)
def _render(tree, grid, surface, pose, lens, out):  # type: ignore[no-untyped-def]
    color, depth, cosine = out
    height, width = depth.shape
    stack = np.zeros(128, np.int32)
    origin = (pose[0, 3], pose[1, 3], pose[2, 3])
    for y in range(height):
        for x in range(width):
            cx, cy = (x - lens[2]) / lens[0], (y - lens[3]) / lens[1]
            d = (
                pose[0, 0] * cx + pose[0, 1] * cy + pose[0, 2],
                pose[1, 0] * cx + pose[1, 1] * cy + pose[1, 2],
                pose[2, 0] * cx + pose[2, 1] * cy + pose[2, 2],
            )
            t, hit, b1, b2 = trace(tree[0], tree[1], tree[2], stack, origin, d, 30.0, False)
            if hit < 0:
                continue
            g = grid[1][hit]
            b0 = 1 - b1 - b2
            triangle = tree[0][hit]
            nx = triangle[4] * triangle[8] - triangle[5] * triangle[7]
            ny = triangle[5] * triangle[6] - triangle[3] * triangle[8]
            nz = triangle[3] * triangle[7] - triangle[4] * triangle[6]
            length = np.sqrt((nx * nx + ny * ny + nz * nz) * (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
            depth[y, x] = t
            cosine[y, x] = abs(nx * d[0] + ny * d[1] + nz * d[2]) / max(length, 1e-12)
            _shade(
                surface,
                grid[0][hit],
                b0 * g[0] + b1 * g[2] + b2 * g[4],
                b0 * g[1] + b1 * g[3] + b2 * g[5],
                t / lens[0],
                lens[4],
                color[y, x],
            )
