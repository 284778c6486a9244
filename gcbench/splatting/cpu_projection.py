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

from gcbench.splatting.cpu_vectors import LANES, bits, fma, helper, kernel, load, lowest_bit, prefetch, select, store
from gcbench.splatting.interface import EPS2D, FAR, FIELD_OF_VIEW_MARGIN, MAX_SIGMAS, MIN_ALPHA, NEAR

TILE, BLOCK = 16, 4  # pixels along the side of a tile and of a block; a tile has 4 x 4 blocks, a region 4 x 4 tiles
REGION = 4 * TILE
X, Y, A, B, C, OPACITY, DEPTH, CUT = range(8)  # columns of a splat
SPLAT = 8
CAMERA = 20  # W row by row (9), t (3), fx, fy, cx, cy, the Jacobian's bounds on x / z and y / z (4)
LOG2E = math.log2(math.e)
_DIGIT = 11  # bits sorted at once


def cameras(viewmats: Any, Ks: Any, width: int, height: int) -> Any:
    """[V, CAMERA] from [V, 4, 4] and [V, 3, 3]."""
    fx, fy, cx, cy = Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]
    margin_x, margin_y = FIELD_OF_VIEW_MARGIN * 0.5 * width / fx, FIELD_OF_VIEW_MARGIN * 0.5 * height / fy
    rows = np.empty((len(Ks), CAMERA))
    rows[:, :9], rows[:, 9:12] = viewmats[:, :3, :3].reshape(-1, 9), viewmats[:, :3, 3]
    rows[:, 12], rows[:, 13], rows[:, 14], rows[:, 15] = fx, fy, cx, cy
    rows[:, 16], rows[:, 17] = -(cx / fx + margin_x), (width - cx) / fx + margin_x
    rows[:, 18], rows[:, 19] = -(cy / fy + margin_y), (height - cy) / fy + margin_y
    return rows


@helper
def _rotation(quats, g):  # type: ignore[no-untyped-def]
    """Rotation matrix of a quaternion, row by row, then the unit quaternion and the length divided by."""
    one = quats.dtype.type(1.0)
    two = one + one
    w, x, y, z = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
    length = max(math.sqrt(w * w + x * x + y * y + z * z), quats.dtype.type(1e-12))
    w, x, y, z = w / length, x / length, y / length, z / length
    return (
        one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y),
        two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x),
        two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y),
        w, x, y, z, length,
    )  # fmt: skip


@helper
def _in_camera(views, k, means, scales, g, turn):  # type: ignore[no-untyped-def]
    """Position in the camera, and the rows u, v, w of W R S."""
    m0, m1, m2 = means[g, 0], means[g, 1], means[g, 2]
    s0, s1, s2 = scales[g, 0], scales[g, 1], scales[g, 2]
    r0, r1, r2, r3, r4, r5, r6, r7, r8, _, _, _, _, _ = turn
    a, b, c = views[k, 0], views[k, 1], views[k, 2]
    x = a * m0 + b * m1 + c * m2 + views[k, 9]
    u = ((a * r0 + b * r3 + c * r6) * s0, (a * r1 + b * r4 + c * r7) * s1, (a * r2 + b * r5 + c * r8) * s2)
    a, b, c = views[k, 3], views[k, 4], views[k, 5]
    y = a * m0 + b * m1 + c * m2 + views[k, 10]
    v = ((a * r0 + b * r3 + c * r6) * s0, (a * r1 + b * r4 + c * r7) * s1, (a * r2 + b * r5 + c * r8) * s2)
    a, b, c = views[k, 6], views[k, 7], views[k, 8]
    z = a * m0 + b * m1 + c * m2 + views[k, 11]
    w = ((a * r0 + b * r3 + c * r6) * s0, (a * r1 + b * r4 + c * r7) * s1, (a * r2 + b * r5 + c * r8) * s2)
    return (x, y, z), u, v, w


@helper
def _less(scale, u, bound, w):  # type: ignore[no-untyped-def]
    """scale (u - bound w): a row of J W R S."""
    return (scale * (u[0] - bound * w[0]), scale * (u[1] - bound * w[1]), scale * (u[2] - bound * w[2]))


@helper
def _dot(a, b):  # type: ignore[no-untyped-def]
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@kernel
def project(  # type: ignore[no-untyped-def]
    first, last, means, quats, scales, opacities, colors, features, views, tiles_x, tiles_y, splats, boxes, channels
):
    """Covariance J W (R S)(R S)^T W^T J^T + EPS2D of the Gaussians first <= g < last in every view (Eq. 1).

    Args:
        means, quats, scales, opacities, colors, features: [G, ...].
        views: [V, CAMERA].
        splats: [V, G, SPLAT], written where visible.
        boxes: [V, G, 4] int32, written: tiles that hold every pixel with alpha >= MIN_ALPHA, from x, y up to and
            without x, y; without any for a splat that is culled.
        channels: [G, channels], written: colour (3), room for the depth, features (F), zeros.
    """
    number = means.dtype.type
    one, half, eps = number(1.0), number(0.5), number(EPS2D)
    near, far, faintest = number(NEAR), number(FAR), number(MIN_ALPHA)
    log2e, tile = number(LOG2E), number(TILE)
    for g in range(first, last):
        turn = _rotation(quats, g)
        opacity = opacities[g]
        for c in range(3):
            channels[g, c] = colors[g, c]
        for c in range(features.shape[1]):
            channels[g, 4 + c] = features[g, c]
        for k in range(len(views)):
            for i in range(4):
                boxes[k, g, i] = 0
            (x, y, z), u, v, w = _in_camera(views, k, means, scales, g, turn)
            if not (z >= near and z <= far and opacity >= faintest):
                continue
            nearness = one / z
            sx, sy = x * nearness, y * nearness
            row_x = _less(views[k, 12] * nearness, u, min(max(sx, views[k, 16]), views[k, 17]), w)
            row_y = _less(views[k, 13] * nearness, v, min(max(sy, views[k, 18]), views[k, 19]), w)
            xx, xy, yy = _dot(row_x, row_x) + eps, _dot(row_x, row_y), _dot(row_y, row_y) + eps
            determinant = xx * yy - xy * xy
            if not determinant > 0:
                continue
            cx, cy = views[k, 12] * sx + views[k, 14], views[k, 13] * sy + views[k, 15]
            cut = math.log(max(opacity / faintest, one))  # the largest sigma that can be seen
            reach = min(number(MAX_SIGMAS), math.sqrt(cut + cut)) * number(1.001)
            wide, high = reach * math.sqrt(xx) + number(0.01), reach * math.sqrt(yy) + number(0.01)
            left, right = (cx - wide - half) / tile, (cx + wide - half) / tile
            top, bottom = (cy - high - half) / tile, (cy + high - half) / tile
            if not (right >= 0 and bottom >= 0 and left < tiles_x and top < tiles_y):
                continue
            boxes[k, g, 0], boxes[k, g, 1] = int(max(left, number(0.0))), int(max(top, number(0.0)))
            boxes[k, g, 2] = 1 + int(min(right, number(tiles_x - 1)))
            boxes[k, g, 3] = 1 + int(min(bottom, number(tiles_y - 1)))
            splats[k, g, X], splats[k, g, Y], splats[k, g, OPACITY], splats[k, g, DEPTH] = cx, cy, opacity, z
            scale = log2e / determinant
            splats[k, g, A], splats[k, g, B], splats[k, g, C] = -half * scale * yy, scale * xy, -half * scale * xx
            splats[k, g, CUT] = cut * log2e * number(1.001) + number(0.01)


@kernel
def sort_by_depth(first, last, depth_bits, boxes, order, sorted_boxes, counts, changes):  # type: ignore[no-untyped-def]
    """Visible Gaussians of the views first <= v < last, front to back; equal depths by index.

    Args:
        depth_bits: [V, G, SPLAT] the splats' bits as unsigned numbers: in the order of the numbers, as depths are > 0.
        boxes: [V, G, 4].
        order, sorted_boxes: [V, G] and [V, G, 4] int32, written up to the number of visible Gaussians.
        counts: [V] int64, written: that number.
        changes: [V, tiles_y + 1, tiles_x + 1] int64, zero; written so that sums over y and x up to a tile are the
            number of boxes that hold it.
    """
    size = 8 * depth_bits.itemsize
    for v in range(first, last):
        n = 0
        for g in range(boxes.shape[1]):
            if boxes[v, g, 2] > 0:
                order[v, n] = g
                n += 1
        counts[v] = n
        source, target = order[v, :n], np.empty(n, np.int32)
        keys = np.empty(n, depth_bits.dtype)
        for i in range(n):
            keys[i] = depth_bits[v, source[i], DEPTH]
        sorted_keys = np.empty_like(keys)
        for shift in range(0, size, _DIGIT):
            places = np.zeros((1 << _DIGIT) + 1, np.int64)
            for i in range(n):
                places[1 + ((np.int64(keys[i]) >> shift) & ((1 << _DIGIT) - 1))] += 1
            if places.max() == n:  # all alike
                continue
            places = np.cumsum(places)
            for i in range(n):
                digit = (np.int64(keys[i]) >> shift) & ((1 << _DIGIT) - 1)
                place = places[digit]
                places[digit] = place + 1
                target[place], sorted_keys[place] = source[i], keys[i]
            source, target, keys, sorted_keys = target, source, sorted_keys, keys
        for i in range(n):
            g = source[i]
            order[v, i] = g
            for c in range(4):
                sorted_boxes[v, i, c] = boxes[v, g, c]
            x0, y0, x1, y1 = boxes[v, g, 0], boxes[v, g, 1], boxes[v, g, 2], boxes[v, g, 3]
            changes[v, y0, x0] += 1
            changes[v, y0, x1] -= 1
            changes[v, y1, x0] -= 1
            changes[v, y1, x1] += 1


@helper
def touched(table, at, left, top, side, cells):  # type: ignore[no-untyped-def]
    """Which of 4 x 4 square cells hold a pixel centre where the splat may be seen: bit 4 y + x for cell (x, y).

    The largest q over a cell lies on its side nearest to the splat's centre, at dx or at dy; along a line of constant
    dx it lies at dy = -B / (2 C) dx.

    Args:
        table: flat rows of SPLAT numbers; `at` is the position of the splat's first.
        left, top: the first cell's corner, pixels.
        side: pixels of a cell.
        cells: [2 * 16], x and y of each cell's corner in cells.
    """
    half, one = table.dtype.type(0.5), table.dtype.type(1.0)
    a, b, c = table[at + A], table[at + B], table[at + C]
    low_x = fma(load(cells, 0), side, (left - table[at + X]) + half)
    low_y = fma(load(cells, 16), side, (top - table[at + Y]) + half)
    high_x, high_y = low_x + (side - one), low_y + (side - one)
    zero = low_x - low_x
    near_x, near_y = _clamped(zero, low_x, high_x), _clamped(zero, low_y, high_y)
    along_y = _clamped(near_x * (-b / (c + c)), low_y, high_y)
    along_x = _clamped(near_y * (-b / (a + a)), low_x, high_x)
    first = fma(near_x, fma(near_x, a, along_y * b), along_y * along_y * c)
    second = fma(along_x, fma(along_x, a, near_y * b), near_y * near_y * c)
    return bits(select(first > second, first, second) >= -table[at + CUT])


@helper
def _clamped(value, low, high):  # type: ignore[no-untyped-def]
    value = select(value > high, high, value)
    return select(value < low, low, value)


@kernel
def list_tiles(first, last, splats, boxes, order, counts, cells, tiles_x, tiles_y, ends, entries):  # type: ignore[no-untyped-def]
    """List the splats of every tile, for bands of regions: band b of view v is number v * bands + b.

    Args:
        splats: flat; order, boxes, counts: sorted, as above; cells: as in `touched`.
        ends: [tiles] int64, where each tile's entries begin; moved on to where they end.
        entries: [E] int32 Gaussians, written.
    """
    number = splats.dtype.type
    side = number(TILE)
    bands, G = -(-tiles_y // 4), order.shape[1]
    for task in range(first, last):
        v, top = task // bands, 4 * (task % bands)
        for i in range(counts[v]):
            prefetch(splats, (v * G + np.int64(order[v, min(i + 16, counts[v] - 1)])) * SPLAT)
            y0, y1 = boxes[v, i, 1], boxes[v, i, 3]
            if y1 <= top or y0 >= top + 4:
                continue
            g, x0, x1 = np.int64(order[v, i]), np.int64(boxes[v, i, 0]), np.int64(boxes[v, i, 2])
            for left in range(x0 // 4 * 4, x1, 4):
                mask = touched(splats, (v * G + g) * SPLAT, number(TILE * left), number(TILE * top), side, cells)
                while mask:
                    cell = lowest_bit(mask)
                    mask &= mask - 1
                    x, y = left + cell % 4, top + cell // 4
                    if x >= x0 and x < x1 and y >= y0 and y < y1:
                        tile = (v * tiles_y + y) * tiles_x + x
                        entries[ends[tile]] = g
                        ends[tile] += 1


@kernel
def sort_rows(first, last, row_gaussian, ends, rows):  # type: ignore[no-untyped-def]
    """Rows [R] int64 grouped by Gaussian, in their order; `ends` [G + 1] are the groups' starts, then their ends."""
    for r in range(first, last):
        g = row_gaussian[r]
        rows[ends[g]] = r
        ends[g] += 1


@kernel
def project_backward(  # type: ignore[no-untyped-def]
    first, last, means, quats, scales, views, splats, table, view_rows, rows, starts,
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, grad_features,
):  # fmt: skip
    """Gradients of the Gaussians first <= g < last from those of their rows.

    Args:
        means, quats, scales, views, splats: as in `project`.
        table: [R, channels + 8]: gradients to colour (3), depth, features (F), padding; then the sums of v, v dx,
            v dy, v dx^2, v dx dy, v dy^2, with v the gradient to log alpha of a pixel and dx, dy from the splat.
        view_rows: [V + 1] int64: rows of view k are those from view_rows[k] up to view_rows[k + 1].
        rows: [R] int64 grouped by Gaussian, views ascending; starts: [G + 1] int64.
        grad_*: the gradients [G, ...], written.
    """
    number = means.dtype.type
    zero = number(0.0)
    F, width, moments = grad_features.shape[1], table.shape[1], table.shape[1] - 8
    total, turned = np.empty(moments, means.dtype), np.empty((3, 3), means.dtype)
    flat = table.reshape(-1)
    for g in range(first, last):
        for j in range(3):
            grad_means[g, j] = grad_colors[g, j] = grad_scales[g, j] = zero
            turned[j, 0] = turned[j, 1] = turned[j, 2] = zero
        for j in range(4):
            grad_quats[g, j] = zero
        for c in range(F):
            grad_features[g, c] = zero
        grad_opacities[g] = zero
        i, stop, k = starts[g], starts[g + 1], 0
        if i == stop:
            continue
        turn = _rotation(quats, g)
        for c in range(moments):
            total[c] = zero
        while i < stop:
            while rows[i] >= view_rows[k + 1]:
                k += 1
            grad_z = m = mx = my = mxx = mxy = myy = zero
            while i < stop and rows[i] < view_rows[k + 1]:
                ahead, at = rows[min(i + 8, len(rows) - 1)] * width, rows[i] * width
                for c in range(0, width, LANES):
                    prefetch(flat, ahead + c)
                for c in range(0, moments, LANES):
                    store(total, c, load(total, c) + load(flat, at + c))
                grad_z += flat[at + 3]
                at += moments
                m, mx, my = m + flat[at], mx + flat[at + 1], my + flat[at + 2]
                mxx, mxy, myy = mxx + flat[at + 3], mxy + flat[at + 4], myy + flat[at + 5]
                i += 1
            grad_opacities[g] += m / splats[k, g, OPACITY]
            sums = grad_z, mx, my, mxx, mxy, myy
            _add_view(views, k, splats, means, scales, g, turn, sums, grad_means, turned)
        for c in range(3):
            grad_colors[g, c] = total[c]
        for c in range(F):
            grad_features[g, c] = total[4 + c]
        _finish(turn, scales, g, turned, grad_quats, grad_scales)


@helper
def _add_view(views, k, splats, means, scales, g, turn, sums, grad_means, turned):  # type: ignore[no-untyped-def]
    """Add one view's share of the gradient to the mean, and to R S (`turned` [3, 3])."""
    number = means.dtype.type
    half, to_conic, zero = number(0.5), number(-1.0 / LOG2E), number(0.0)
    a, c = (splats[k, g, A] + splats[k, g, A]) * to_conic, (splats[k, g, C] + splats[k, g, C]) * to_conic
    b = splats[k, g, B] * to_conic
    grad_z, mx, my, mxx, mxy, myy = sums
    grad_cx, grad_cy = a * mx + b * my, b * mx + c * my
    # conic K = covariance^-1, so the gradient to the covariance is -K (gradient to K) K
    ka, kb, kc = -half * mxx, -half * mxy, -half * myy
    p, q, r, s = a * ka + b * kb, a * kb + b * kc, b * ka + c * kb, b * kb + c * kc
    grad_xx, grad_xy, grad_yy = -(p * a + q * b), -(p * b + q * c) - (r * a + s * b), -(r * b + s * c)

    (x, y, z), u, v, w = _in_camera(views, k, means, scales, g, turn)
    nearness = number(1.0) / z
    sx, sy, kx, ky = x * nearness, y * nearness, views[k, 12] * nearness, views[k, 13] * nearness
    bx, by = min(max(sx, views[k, 16]), views[k, 17]), min(max(sy, views[k, 18]), views[k, 19])
    row_x, row_y = _less(kx, u, bx, w), _less(ky, v, by, w)
    grad_x0 = (grad_xx + grad_xx) * row_x[0] + grad_xy * row_y[0]
    grad_x1 = (grad_xx + grad_xx) * row_x[1] + grad_xy * row_y[1]
    grad_x2 = (grad_xx + grad_xx) * row_x[2] + grad_xy * row_y[2]
    grad_y0 = (grad_yy + grad_yy) * row_y[0] + grad_xy * row_x[0]
    grad_y1 = (grad_yy + grad_yy) * row_y[1] + grad_xy * row_x[1]
    grad_y2 = (grad_yy + grad_yy) * row_y[2] + grad_xy * row_x[2]
    grad_row_x, grad_row_y = (grad_x0, grad_x1, grad_x2), (grad_y0, grad_y1, grad_y2)
    grad_sx = views[k, 12] * grad_cx - (kx * _dot(grad_row_x, w) if bx == sx else zero)
    grad_sy = views[k, 13] * grad_cy - (ky * _dot(grad_row_y, w) if by == sy else zero)
    grad_z -= (_dot(grad_row_x, row_x) + _dot(grad_row_y, row_y) + grad_sx * sx + grad_sy * sy) * nearness
    grad_x, grad_y = grad_sx * nearness, grad_sy * nearness
    for j in range(3):
        along_x, along_y = views[k, j], views[k, 3 + j]
        along_z = views[k, 6 + j]
        grad_means[g, j] += along_x * grad_x + along_y * grad_y + along_z * grad_z
        for i in range(3):
            grad_u, grad_v = kx * grad_row_x[i], ky * grad_row_y[i]
            turned[j, i] += along_x * grad_u + along_y * grad_v - along_z * (bx * grad_u + by * grad_v)


@helper
def _finish(turn, scales, g, turned, grad_quats, grad_scales):  # type: ignore[no-untyped-def]
    """From the gradient to R S (`turned` [3, 3]) to those of scales and quaternion."""
    r0, r1, r2, r3, r4, r5, r6, r7, r8, w, x, y, z, length = turn
    two = scales.dtype.type(2.0)
    grad_scales[g, 0] = r0 * turned[0, 0] + r3 * turned[1, 0] + r6 * turned[2, 0]
    grad_scales[g, 1] = r1 * turned[0, 1] + r4 * turned[1, 1] + r7 * turned[2, 1]
    grad_scales[g, 2] = r2 * turned[0, 2] + r5 * turned[1, 2] + r8 * turned[2, 2]
    for i in range(3):
        for j in range(3):
            turned[i, j] *= scales[g, j]  # now the gradient to R
    t = turned
    cross_x, cross_y, cross_z = t[2, 1] - t[1, 2], t[0, 2] - t[2, 0], t[1, 0] - t[0, 1]
    grad_w = two * (x * cross_x + y * cross_y + z * cross_z)
    pair_xy, pair_xz, pair_yz = t[0, 1] + t[1, 0], t[0, 2] + t[2, 0], t[1, 2] + t[2, 1]
    grad_x = two * (w * cross_x + y * pair_xy + z * pair_xz - two * x * (t[1, 1] + t[2, 2]))
    grad_y = two * (w * cross_y + x * pair_xy + z * pair_yz - two * y * (t[0, 0] + t[2, 2]))
    grad_z = two * (w * cross_z + x * pair_xz + y * pair_yz - two * z * (t[0, 0] + t[1, 1]))
    along = w * grad_w + x * grad_x + y * grad_y + z * grad_z  # normalising takes away what points along the quaternion
    if length <= scales.dtype.type(1e-12):
        along = scales.dtype.type(0.0)
    grad_quats[g, 0], grad_quats[g, 1] = (grad_w - along * w) / length, (grad_x - along * x) / length
    grad_quats[g, 2], grad_quats[g, 3] = (grad_y - along * y) / length, (grad_z - along * z) / length
