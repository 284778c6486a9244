"""numba kernels of the CPU engine: blending of the splats of a tile (Eq. 2, 3), and its gradient.

A tile is worked through in blocks of 4 x 4 pixels, which are the lanes. In each block alpha and transmittance follow
the splats front to back; the sums over splats or pixels are then matrix products of `add_products`.

Shape legend
    E  entries, R  rows, S  splats: see `cpu_projection`      V  views      H, W  pixels      F  feature channels
    channels of an entry: colour (3), depth, features (F), zeros up to a multiple of 16, at least MOMENTS of them
"""

from __future__ import annotations

import numpy as np

from gcbench.splatting.cpu_projection import BLOCK, DEPTH, OPACITY, SPLAT, TILE, A, B, C, X, Y, touched
from gcbench.splatting.cpu_vectors import (
    LANES,
    add_products,
    bits,
    exp2,
    fma,
    helper,
    kernel,
    load,
    pair_sums,
    prefetch,
    select,
    store,
)
from gcbench.splatting.interface import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE

BLOCKS = 16
_AHEAD = 16  # entries between asking for data and using them
_BATCH = 256  # entries blended at once; a tile looks whether it has ended after each batch


@helper
def _tile(t, tiles_x, tiles_y):  # type: ignore[no-untyped-def]
    """View of a tile, and the pixel of its corner."""
    return t // (tiles_x * tiles_y), t % tiles_x * TILE, t // tiles_x % tiles_y * TILE


@helper
def _pixels(cells, left, top, width, height):  # type: ignore[no-untyped-def]
    """Centres x, y of a block's pixels, and 1 for those inside the image, else 0."""
    number = cells.dtype.type
    x, y = load(cells, 0) + number(left + 0.5), load(cells, LANES) + number(top + 0.5)
    none = x - x
    return x, y, select((x < number(width)) & (y < number(height)), none + 1.0, none)


@helper
def _gather(i, g, s, splats, rows, table, channels):  # type: ignore[no-untyped-def]
    """Copy splat s and the channels of its Gaussian g to row i of the tile's own tables."""
    for c in range(SPLAT):
        table[i, c] = splats[s, c]
    for c in range(0, rows.shape[1], LANES):
        store(channels, i * rows.shape[1] + c, load(rows, g * rows.shape[1] + c))
    channels[i, 3] = splats[s, DEPTH]


@helper
def _fetch_ahead(i, v, entries, splats, rows):  # type: ignore[no-untyped-def]
    """Have what `_gather` will copy for the entry _AHEAD of i brought into the cache."""
    g = entries[min(i + _AHEAD, len(entries) - 1)]
    prefetch(splats, (v * len(rows) + g) * SPLAT)
    for c in range(0, rows.shape[1], LANES):
        prefetch(rows, g * rows.shape[1] + c)


@helper
def _members(masks, count, b, listed):  # type: ignore[no-untyped-def]
    """List the i < count whose mask has bit b; returns their number."""
    n = 0
    for i in range(count):
        listed[n] = i
        n += (masks[i] >> b) & 1
    return n


@helper
def _blended(table, i, x, y, T):  # type: ignore[no-untyped-def]
    """alpha = opacity 2^q of a splat in 16 pixels, clamped (Eq. 2), or 0 where it is not blended; and where T goes on.

    A pixel ends in front of the splat that would bring T to MIN_TRANSMITTANCE or below. One that has ended has T <= 0.
    """
    dx, dy = x - table[i, X], y - table[i, Y]
    q = fma(dx, fma(dx, table[i, A], dy * table[i, B]), dy * dy * table[i, C])
    alpha = exp2(select(q > -40.0, q, -40.0)) * table[i, OPACITY]
    alpha = select(alpha >= MIN_ALPHA, select(alpha > MAX_ALPHA, MAX_ALPHA, alpha), 0.0)
    alpha = select(q > 0.0, 0.0, alpha)
    goes_on = alpha * T < T - MIN_TRANSMITTANCE
    return select(goes_on, alpha, 0.0), goes_on


@kernel
def blend(  # type: ignore[no-untyped-def]
    first, last, tiles_x, tiles_y, starts, entries, splats, rows, cells, hits, image, depths, features, transmittance
):
    """Blend the tiles first <= t < last front to back: sums of channel alpha T (Eq. 3).

    Args:
        starts: [tiles + 1], of the entries of each; entries: [E] Gaussians; splats: [S, SPLAT]; rows: [G, channels].
        cells: [2, 16], x and y of a block's pixels.
        hits: [E] uint16, zero; written: bit b where the entry is blended in block b.
        image [V, H, W, 3], depths [V, H, W], features [V, H, W, F], transmittance [V, H, W]: written.
    """
    dtype, (_, H, W), (G, stride) = splats.dtype, depths.shape, rows.shape
    number, used = dtype.type, 4 + features.shape[3]
    table, channels = np.empty((_BATCH, SPLAT), dtype), np.empty((_BATCH, stride), dtype)
    masks, listed, entry_of = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64)
    offsets, weights = np.empty(_BATCH, np.int64), np.empty((_BATCH, LANES), dtype)
    sums, passing = np.empty((BLOCKS, stride, LANES), dtype), np.empty((BLOCKS, LANES), dtype)
    columns, places = np.arange(stride), np.arange(stride) * LANES  # passing: T, and -T of pixels that have ended
    for t in range(first, last):
        v, left, top = _tile(t, tiles_x, tiles_y)
        sums[:], alive = number(0.0), 0
        for b in range(BLOCKS):
            _, _, inside = _pixels(cells, left + b % 4 * BLOCK, top + b // 4 * BLOCK, W, H)
            store(passing, b * LANES, inside)
            alive |= (bits(inside > 0.0) != 0) << b
        for start in range(starts[t], starts[t + 1], _BATCH):
            filled = 0
            for i in range(start, min(start + _BATCH, starts[t + 1])):
                g = entries[i]
                _fetch_ahead(i, v, entries, splats, rows)
                mask = touched(splats, v * G + g, number(left), number(top), number(BLOCK), cells) & alive
                if mask:
                    _gather(filled, g, v * G + g, splats, rows, table, channels)
                    masks[filled], entry_of[filled] = mask, i
                    filled += 1
            for b in range(BLOCKS):
                length, n = _members(masks, filled, b, listed), 0
                x, y, _ = _pixels(cells, left + b % 4 * BLOCK, top + b // 4 * BLOCK, W, H)
                T = load(passing, b * LANES)
                for k in range(length):
                    alpha, goes_on = _blended(table, listed[k], x, y, T)
                    store(weights, n * LANES, alpha * T)
                    offsets[n] = listed[k] * stride
                    seen = bits(alpha > 0.0) != 0
                    hits[entry_of[listed[k]]] |= np.uint16(seen << b)
                    n += seen
                    T = select(goes_on, T - alpha * T, select(T > 0.0, T * -1.0, T))
                    if bits(T > 0.0) == 0:
                        alive &= ~(1 << b)
                        break
                store(passing, b * LANES, T)
                add_products(channels, columns, offsets, weights, LANES, n, sums[b], places, used, 1)
            if alive == 0:
                break
        for b in range(BLOCKS):
            x0, y0 = left + b % 4 * BLOCK, top + b // 4 * BLOCK
            _write(v, x0, y0, sums[b], passing[b], image, depths, features, transmittance)


@helper
def _write(v, left, top, sums, passing, image, depths, features, transmittance):  # type: ignore[no-untyped-def]
    """A block [channel, pixel] into the images."""
    _, H, W = depths.shape
    for p in range(LANES):
        x, y = left + p % BLOCK, top + p // BLOCK
        if x < W and y < H:
            for c in range(3):
                image[v, y, x, c] = sums[c, p]
            depths[v, y, x] = sums[3, p]
            for c in range(features.shape[3]):
                features[v, y, x, c] = sums[4 + c, p]
            transmittance[v, y, x] = abs(passing[p])


@kernel
def blend_backward(  # type: ignore[no-untyped-def]
    first, last, tiles_x, tiles_y, starts, entries, splats, rows, cells, hits,
    grad_image, grad_depths, grad_features, grad_transmittance, row_starts, table_of_rows, row_keys,
):  # fmt: skip
    """Gradients of the tiles first <= t < last with respect to each row's channels and to log alpha.

    With d the gradient to the weight alpha T of a pixel and U the gradient to the transmittance behind the splat,
    the gradient to alpha is T (d - U), and to log alpha v = weight (d - U), or 0 where alpha is clamped. In front of
    the splat U is alpha d + (1 - alpha) U; at the end of the pixel it is the gradient to its transmittance.

    Args:
        as in `blend`; hits: what it wrote; grad_image, ...: gradients to what it wrote.
        row_starts: [tiles + 1]: rows of each tile, its entries with any hit.
        table_of_rows: [R, channels], written: see `project_backward`.
        row_keys: [R] int32, written: Gaussian * V + view.
    """
    dtype, (V, H, W), (G, stride) = splats.dtype, grad_depths.shape, rows.shape
    number, used = dtype.type, 4 + grad_features.shape[3]
    most = max(np.diff(row_starts[first : last + 1]))
    table, channels = np.empty((most, SPLAT), dtype), np.empty((most, stride), dtype)
    masks, listed = np.empty(most, np.int64), np.empty(most, np.int64)
    weights, alphas = np.empty((most, LANES), dtype), np.empty((most, LANES), dtype)
    gradients, ending = np.empty((most, LANES), dtype), np.empty(LANES, dtype)  # gradients: d
    by_channel, by_pixel = np.empty((stride, LANES), dtype), np.empty((LANES, stride), dtype)
    of_channels, of_rows = np.empty(most, np.int64), np.empty(most, np.int64)
    places, columns = np.arange(most) * LANES, np.arange(max(stride, LANES))
    for t in range(first, last):
        v, left, top = _tile(t, tiles_x, tiles_y)
        r, r0 = 0, row_starts[t]
        table_of_rows[r0 : row_starts[t + 1]] = number(0.0)
        for i in range(starts[t], starts[t + 1]):
            _fetch_ahead(i, v, entries, splats, rows)
            if hits[i]:
                _gather(r, entries[i], v * G + entries[i], splats, rows, table, channels)
                masks[r], row_keys[r0 + r] = hits[i], entries[i] * V + v
                r += 1
        for b in range(BLOCKS):
            n = _members(masks, r, b, listed)
            if n == 0:
                continue
            x0, y0 = left + b % 4 * BLOCK, top + b // 4 * BLOCK
            x, y, T = _pixels(cells, x0, y0, W, H)
            _read(v, x0, y0, grad_image, grad_depths, grad_features, grad_transmittance, by_channel, by_pixel, ending)
            for k in range(n):
                alpha, goes_on = _blended(table, listed[k], x, y, T)
                store(alphas, k * LANES, alpha)
                store(weights, k * LANES, alpha * T)
                store(gradients, k * LANES, x - x)
                T = select(goes_on, T - alpha * T, 0.0)
                of_channels[k], of_rows[k] = listed[k] * stride, (r0 + listed[k]) * stride
            add_products(channels, of_channels, columns, by_channel, LANES, used, gradients, places, n, 1)
            add_products(weights, places, columns, by_pixel, stride, LANES, table_of_rows, of_rows, n, stride // LANES)
            U = load(ending, 0)
            for k in range(n - 1, -1, -1):
                alpha, change = load(alphas, k * LANES), load(gradients, k * LANES) - U
                to_log_alpha = select(alpha < MAX_ALPHA, load(weights, k * LANES) * change, 0.0)
                U = fma(alpha, change, U)
                dx, dy = x - table[listed[k], X], y - table[listed[k], Y]
                _add_moments(table_of_rows, r0 + listed[k], to_log_alpha, dx, dy)


@helper
def _add_moments(table, r, v, dx, dy):  # type: ignore[no-untyped-def]
    """Add the sums of v, v dx, v dy, v dx^2, v dx dy, v dy^2 to the end of row r: pairs of pairs of pairs of pairs."""
    none, vx, vy, end = v - v, v * dx, v * dy, (r + 1) * table.shape[1] - LANES
    low = pair_sums(pair_sums(none, none), pair_sums(v, vx))
    high = pair_sums(pair_sums(vy, vx * dx), pair_sums(vx * dy, vy * dy))
    store(table, end, load(table, end) + pair_sums(none, pair_sums(low, high)))


@helper
def _read(v, left, top, image, depths, features, end, by_channel, by_pixel, ending):  # type: ignore[no-untyped-def]
    """The gradients of a block's pixels, once as [channel, pixel] and once as [pixel, channel]; 0 outside the image.

    `ending` becomes the gradient to the transmittance at the end.
    """
    _, H, W = depths.shape
    by_pixel[:], ending[:] = ending.dtype.type(0.0), ending.dtype.type(0.0)
    for p in range(LANES):
        x, y = left + p % BLOCK, top + p // BLOCK
        if x < W and y < H:
            for c in range(3):
                by_pixel[p, c] = image[v, y, x, c]
            by_pixel[p, 3] = depths[v, y, x]
            for c in range(features.shape[3]):
                by_pixel[p, 4 + c] = features[v, y, x, c]
            ending[p] = end[v, y, x]
    for c in range(4 + features.shape[3]):
        for p in range(LANES):
            by_channel[c, p] = by_pixel[p, c]
