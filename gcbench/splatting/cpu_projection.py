"""numba kernels of the CPU engine: projection of Gaussians (Eq. 1), its gradient, and the lists of tiles.

Shape legend
    G  Gaussians      V  views      S = V * G  splats, in the order view * G + Gaussian      F  feature channels
    E  entries: (tile, splat) combinations, tile by tile, front to back in each; t = (view * tiles_y + y) * tiles_x + x
    R  rows: entries that are blended in some pixel

A splat's exponent is q = A dx^2 + B dx dy + C dy^2 = -log2(e) sigma, so that alpha = opacity 2^q.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gcbench.splatting.cpu_vectors import LANES, bits, fma, helper, kernel, load, prefetch, select, store
from gcbench.splatting.interface import EPS2D, FAR, FIELD_OF_VIEW_MARGIN, MAX_SIGMAS, MIN_ALPHA, NEAR

TILE, BLOCK = 16, 4  # pixels along the side of a tile and of a block; a tile has 4 x 4 blocks
X, Y, A, B, C, OPACITY, DEPTH, CUT = range(8)  # columns of a splat
SPLAT, MOMENTS = 8, 6
LOG2E = math.log2(math.e)


def cameras(viewmats: Any, Ks: Any, width: int, height: int) -> Any:
    """W row by row (9), t (3), fx, fy, cx, cy, the Jacobian's bounds on x / z and y / z (4): [V, 20]."""
    rows = [viewmats[:, :3, :3].reshape(-1, 9), viewmats[:, :3, 3], Ks[:, [0, 1, 0, 1], [0, 1, 2, 2]]]
    for axis, size in ((0, width), (1, height)):
        focal, center = Ks[:, axis, axis], Ks[:, axis, 2]
        margin = FIELD_OF_VIEW_MARGIN * 0.5 * size / focal
        rows.append(np.stack((-(center / focal + margin), (size - center) / focal + margin), axis=1))
    return np.concatenate(rows, axis=1)


@helper
def _triple(array, row, at):  # type: ignore[no-untyped-def]
    return array[row, at], array[row, at + 1], array[row, at + 2]


@helper
def _dot(a, b):  # type: ignore[no-untyped-def]
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def _sum(s, a, t, b):  # type: ignore[no-untyped-def]
    """s a + t b of two vectors."""
    return s * a[0] + t * b[0], s * a[1] + t * b[1], s * a[2] + t * b[2]


@helper
def _times(a, rows):  # type: ignore[no-untyped-def]
    """The row vector a M of a matrix of three rows."""
    return (
        a[0] * rows[0][0] + a[1] * rows[1][0] + a[2] * rows[2][0],
        a[0] * rows[0][1] + a[1] * rows[1][1] + a[2] * rows[2][1],
        a[0] * rows[0][2] + a[1] * rows[1][2] + a[2] * rows[2][2],
    )


@helper
def _oriented(quats, scales, g):  # type: ignore[no-untyped-def]
    """Rows of R, rows of R S, the unit quaternion, and the length it was divided by."""
    one, two = quats.dtype.type(1.0), quats.dtype.type(2.0)
    w, x, y, z = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
    length = max(math.sqrt(w * w + x * x + y * y + z * z), quats.dtype.type(1e-12))
    w, x, y, z = w / length, x / length, y / length, z / length
    a = one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)
    b = two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)
    c = two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)
    p, q, r = _triple(scales, g, 0)
    axes = (a[0] * p, a[1] * q, a[2] * r), (b[0] * p, b[1] * q, b[2] * r), (c[0] * p, c[1] * q, c[2] * r)
    return (a, b, c), axes, (w, x, y, z), length


@helper
def _projected(views, k, mean, axes):  # type: ignore[no-untyped-def]
    """z, 1 / z; x / z and y / z, and both within the Jacobian's bounds; fx / z, fy / z; last row of W R S; J W R S."""
    x = _dot(_triple(views, k, 0), mean) + views[k, 9]
    y = _dot(_triple(views, k, 3), mean) + views[k, 10]
    z = _dot(_triple(views, k, 6), mean) + views[k, 11]
    w = _times(_triple(views, k, 6), axes)
    nearness = views.dtype.type(1.0) / z
    slope_x, slope_y = x * nearness, y * nearness
    focal_x, focal_y = views[k, 12] * nearness, views[k, 13] * nearness
    bound_x = min(max(slope_x, views[k, 16]), views[k, 17])
    bound_y = min(max(slope_y, views[k, 18]), views[k, 19])
    row_x = _sum(focal_x, _times(_triple(views, k, 0), axes), -focal_x * bound_x, w)
    row_y = _sum(focal_y, _times(_triple(views, k, 3), axes), -focal_y * bound_y, w)
    return z, nearness, (slope_x, slope_y), (bound_x, bound_y), (focal_x, focal_y), w, row_x, row_y


@kernel
def project(  # type: ignore[no-untyped-def]
    first, last, means, quats, scales, opacities, colors, features, views, tiles_x, tiles_y, splats, boxes, channels
):
    """Covariance J W (R S)(R S)^T W^T J^T + EPS2D of the Gaussians first <= g < last in every view (Eq. 1).

    Args:
        means, quats, scales, opacities, colors, features: [G, ...].
        views: [V, 20].
        splats: [S, SPLAT], written where visible.
        boxes: [S, 4] int32, written: tiles that hold every pixel with alpha >= MIN_ALPHA, from x, y up to and
            without x, y; without any for a splat that is culled.
        channels: [G, channels], zero; written: colour (3), room for the depth, features (F).
    """
    number = means.dtype.type
    one, half, small, eps, tile = number(1.0), number(0.5), number(0.01), number(EPS2D), number(TILE)
    wider = number(1.001)  # than rounding can take away, so that the cut at MIN_ALPHA alone decides
    for g in range(first, last):
        _, axes, _, _ = _oriented(quats, scales, g)
        opacity = opacities[g]
        for c in range(3):
            channels[g, c] = colors[g, c]
        for c in range(features.shape[1]):
            channels[g, 4 + c] = features[g, c]
        for k in range(len(views)):
            s = k * len(means) + g
            boxes[s, 0] = boxes[s, 1] = boxes[s, 2] = boxes[s, 3] = 0
            z, _, slopes, _, _, _, row_x, row_y = _projected(views, k, _triple(means, g, 0), axes)
            if not (z >= number(NEAR) and z <= number(FAR) and opacity >= number(MIN_ALPHA)):
                continue
            xx, xy, yy = _dot(row_x, row_x) + eps, _dot(row_x, row_y), _dot(row_y, row_y) + eps
            determinant = xx * yy - xy * xy
            if not determinant > 0:
                continue
            cx, cy = views[k, 12] * slopes[0] + views[k, 14], views[k, 13] * slopes[1] + views[k, 15]
            cut = math.log(max(opacity / number(MIN_ALPHA), one))  # the largest sigma that can be seen
            reach = min(number(MAX_SIGMAS), math.sqrt(cut + cut)) * wider
            wide, high = reach * math.sqrt(xx) + small, reach * math.sqrt(yy) + small
            left, right = (cx - wide - half) / tile, (cx + wide - half) / tile
            top, bottom = (cy - high - half) / tile, (cy + high - half) / tile
            if not (right >= 0 and bottom >= 0 and left < tiles_x and top < tiles_y):
                continue
            boxes[s, 0], boxes[s, 1] = int(max(left, number(0.0))), int(max(top, number(0.0)))
            boxes[s, 2] = 1 + int(min(right, number(tiles_x - 1)))
            boxes[s, 3] = 1 + int(min(bottom, number(tiles_y - 1)))
            splats[s, X], splats[s, Y], splats[s, OPACITY], splats[s, DEPTH] = cx, cy, opacity, z
            scale = number(LOG2E) / determinant
            splats[s, A], splats[s, B], splats[s, C] = -half * scale * yy, scale * xy, -half * scale * xx
            splats[s, CUT] = cut * number(LOG2E) * wider + small


@helper
def touched(splats, s, left, top, side, cells):  # type: ignore[no-untyped-def]
    """Which of 4 x 4 square cells hold a pixel centre where splat s may be seen: bit 4 y + x for cell (x, y).

    The largest q over a cell lies on its side nearest to the splat's centre, at dx or at dy; along a line of constant
    dx it lies at dy = -B / (2 C) dx.

    Args:
        splats: [S, SPLAT].
        left, top: the first cell's corner, pixels.
        side: pixels of a cell.
        cells: [2, 16], x and y of each cell's corner in cells.
    """
    half, one = splats.dtype.type(0.5), splats.dtype.type(1.0)
    a, b, c = _triple(splats, s, A)
    low_x = fma(load(cells, 0), side, (left - splats[s, X]) + half)
    low_y = fma(load(cells, 16), side, (top - splats[s, Y]) + half)
    high_x, high_y = low_x + (side - one), low_y + (side - one)
    zero = low_x - low_x
    near_x, near_y = _clamped(zero, low_x, high_x), _clamped(zero, low_y, high_y)
    along_y = _clamped(near_x * (-b / (c + c)), low_y, high_y)
    along_x = _clamped(near_y * (-b / (a + a)), low_x, high_x)
    first = fma(near_x, fma(near_x, a, along_y * b), along_y * along_y * c)
    second = fma(along_x, fma(along_x, a, near_y * b), near_y * near_y * c)
    return bits(select(first > second, first, second) >= -splats[s, CUT])


@helper
def _clamped(value, low, high):  # type: ignore[no-untyped-def]
    value = select(value > high, high, value)
    return select(value < low, low, value)


@kernel
def list_tiles(first, last, splats, boxes, rooms, ranks, cells, G, tiles_x, tiles_y, keys):  # type: ignore[no-untyped-def]
    """List the tiles where the splats first <= s < last may be seen.

    Args:
        splats, boxes: as `project` wrote them; cells: as in `touched`.
        rooms: [S] int64, where each splat's keys begin; there is room for its whole box.
        ranks: [S] int64, the splats' places in the order of depth.
        keys: int64, written: tile * 2^32 + rank.
    """
    number = splats.dtype.type
    for s in range(first, last):
        at, row = rooms[s], s // G * tiles_y
        x0, y0, x1, y1 = boxes[s, 0], boxes[s, 1], boxes[s, 2], boxes[s, 3]
        for top in range(y0, y1, 4):
            for left in range(x0, x1, 4):
                mask = touched(splats, s, number(TILE * left), number(TILE * top), number(TILE), cells)
                for y in range(top, min(top + 4, y1)):
                    for x in range(left, min(left + 4, x1)):
                        if mask >> (4 * (y - top) + x - left) & 1:
                            keys[at] = ((row + y) * tiles_x + x) << 32 | ranks[s]
                            at += 1


@kernel
def group_rows(row_keys, ends, rows):  # type: ignore[no-untyped-def]
    """List the rows [R] by their keys, in their order; `ends` [S + 1] are the groups' starts, then their ends."""
    for r in range(len(rows)):
        key = row_keys[r]
        rows[ends[key]] = r
        ends[key] += 1


@kernel
def project_backward(  # type: ignore[no-untyped-def]
    first, last, means, quats, scales, views, splats, table, rows, starts,
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, grad_features,
):  # fmt: skip
    """Gradients of the Gaussians first <= g < last from those of their rows.

    Args:
        means, quats, scales, views, splats: as in `project`.
        table: [R, channels]: gradients to colour (3), depth, features (F), zeros; at the end the sums of v, v dx, v dy,
            v dx^2, v dx dy, v dy^2, with v the gradient to log alpha of a pixel and dx, dy from the splat.
        rows: [R] int64, by Gaussian and view; starts: [G * V + 1] int64, where those of each begin.
        grad_*: the gradients [G, ...], zero; written.
    """
    V, width, zero = len(views), table.shape[1], means.dtype.type(0.0)
    total, turned = np.empty(width, means.dtype), np.empty((3, 3), means.dtype)
    for g in range(first, last):
        if starts[g * V] == starts[g * V + V]:
            continue
        mean, (R, axes, quat, length) = _triple(means, g, 0), _oriented(quats, scales, g)
        total[:], turned[:] = zero, zero
        for k in range(V):
            start, stop = starts[g * V + k], starts[g * V + k + 1]
            if start == stop:
                continue
            total[3] = total[width - 6] = total[width - 5] = total[width - 4] = zero  # these are the view's own
            total[width - 3] = total[width - 2] = total[width - 1] = zero
            for i in range(start, stop):
                ahead = rows[min(i + 8, len(rows) - 1)] * width
                for c in range(0, width, LANES):
                    prefetch(table, ahead + c)
                    store(total, c, load(total, c) + load(table, rows[i] * width + c))
            s = k * len(means) + g
            grad_opacities[g] += total[width - 6] / splats[s, OPACITY]
            _add_view(views, k, mean, axes, _triple(splats, s, A), total, g, grad_means, turned)
        for c in range(3):
            grad_colors[g, c] = total[c]
        for c in range(grad_features.shape[1]):
            grad_features[g, c] = total[4 + c]
        _finish(R, quat, length, _triple(scales, g, 0), turned, g, grad_quats, grad_scales)


@helper
def _add_view(views, k, mean, axes, conic, sums, g, grad_means, turned):  # type: ignore[no-untyped-def]
    """Add one view's share of the gradient to the mean, and to R S (`turned` [3, 3])."""
    number = turned.dtype.type
    one, half, two, to_conic = number(1.0), number(0.5), number(2.0), number(-1.0 / LOG2E)
    a, b, c = two * to_conic * conic[0], to_conic * conic[1], two * to_conic * conic[2]
    end, grad_z = len(sums), sums[3]
    mx, my, mxx, mxy, myy = sums[end - 5], sums[end - 4], sums[end - 3], sums[end - 2], sums[end - 1]
    grad_cx, grad_cy = a * mx + b * my, b * mx + c * my
    # conic K = covariance^-1, so the gradient to the covariance is -K (gradient to K) K
    ka, kb, kc = -half * mxx, -half * mxy, -half * myy
    p, q, r, s = a * ka + b * kb, a * kb + b * kc, b * ka + c * kb, b * kb + c * kc
    grad_xx, grad_xy, grad_yy = -(p * a + q * b), -(p * b + q * c) - (r * a + s * b), -(r * b + s * c)

    _, nearness, slopes, bounds, (focal_x, focal_y), w, row_x, row_y = _projected(views, k, mean, axes)
    (slope_x, slope_y), (bound_x, bound_y) = slopes, bounds
    grad_row_x, grad_row_y = _sum(two * grad_xx, row_x, grad_xy, row_y), _sum(two * grad_yy, row_y, grad_xy, row_x)
    grad_slope_x, grad_slope_y = views[k, 12] * grad_cx, views[k, 13] * grad_cy
    if bound_x == slope_x:
        grad_slope_x -= focal_x * _dot(grad_row_x, w)
    if bound_y == slope_y:
        grad_slope_y -= focal_y * _dot(grad_row_y, w)
    grad_x, grad_y = grad_slope_x * nearness, grad_slope_y * nearness
    grad_z -= (_dot(grad_row_x, row_x) + _dot(grad_row_y, row_y)) * nearness + grad_x * slope_x + grad_y * slope_y
    grad_w = _sum(-focal_x * bound_x, grad_row_x, -focal_y * bound_y, grad_row_y)
    for j in range(3):
        along_x, along_y, along_z = views[k, j], views[k, 3 + j], views[k, 6 + j]
        grad_means[g, j] += along_x * grad_x + along_y * grad_y + along_z * grad_z
        row = _sum(one, _sum(along_x * focal_x, grad_row_x, along_y * focal_y, grad_row_y), along_z, grad_w)
        turned[j, 0], turned[j, 1], turned[j, 2] = turned[j, 0] + row[0], turned[j, 1] + row[1], turned[j, 2] + row[2]


@helper
def _finish(R, quat, length, scales, t, g, grad_quats, grad_scales):  # type: ignore[no-untyped-def]
    """From the gradient to R S (`t` [3, 3]) to those of scales and quaternion."""
    (w, x, y, z), two = quat, t.dtype.type(2.0)
    for j in range(3):
        grad_scales[g, j] = R[0][j] * t[0, j] + R[1][j] * t[1, j] + R[2][j] * t[2, j]
        for i in range(3):
            t[i, j] *= scales[j]  # now the gradient to R
    cross_x, cross_y, cross_z = t[2, 1] - t[1, 2], t[0, 2] - t[2, 0], t[1, 0] - t[0, 1]
    pair_xy, pair_xz, pair_yz = t[0, 1] + t[1, 0], t[0, 2] + t[2, 0], t[1, 2] + t[2, 1]
    grad_w = two * (x * cross_x + y * cross_y + z * cross_z)
    grad_x = two * (w * cross_x + y * pair_xy + z * pair_xz - two * x * (t[1, 1] + t[2, 2]))
    grad_y = two * (w * cross_y + x * pair_xy + z * pair_yz - two * y * (t[0, 0] + t[2, 2]))
    grad_z = two * (w * cross_z + x * pair_xz + y * pair_yz - two * z * (t[0, 0] + t[1, 1]))
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z  # normalising takes away what points along the quaternion
    if length <= t.dtype.type(1e-12):
        along = t.dtype.type(0.0)
    grad_quats[g, 0], grad_quats[g, 1] = (grad_w - along * w) / length, (grad_x - along * x) / length
    grad_quats[g, 2], grad_quats[g, 3] = (grad_y - along * y) / length, (grad_z - along * z) / length
