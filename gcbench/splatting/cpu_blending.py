"""numba kernels of the CPU engine: blending of the splats of a tile (Eq. 2, 3), and its gradient.

A tile is worked through in blocks of 4 x 4 pixels, which are the lanes. In each block alpha and transmittance follow
the splats front to back; the sums over splats or pixels are then matrix products of `add_products`.

Shape legend
    E  entries, R  rows, SPLAT: see `cpu_projection`      V  views      H, W  pixels      F  feature channels
    channels of an entry: colour (3), depth, features (F), padded with zeros to a multiple of 4
"""

from __future__ import annotations

import numpy as np

from gcbench.splatting.cpu_projection import BLOCK, DEPTH, OPACITY, SPLAT, TILE, A, B, C, X, Y, touched
from gcbench.splatting.cpu_vectors import (
    LANES,
    add_products,
    add_sums,
    bits,
    exp2,
    fma,
    helper,
    kernel,
    load,
    prefetch,
    select,
    store,
    transpose,
)
from gcbench.splatting.interface import MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE

BLOCKS = 16
_BATCH = 256  # entries blended at once; a tile looks whether it has ended after each batch


@helper
def _unbounded_alphas(table, at, x, y):  # type: ignore[no-untyped-def]
    """alpha = opacity 2^q of 16 pixel centres x, y, before the clamp; 0 where q > 0 (Eq. 2)."""
    dx, dy = x - table[at + X], y - table[at + Y]
    q = fma(dx, fma(dx, table[at + A], dy * table[at + B]), dy * dy * table[at + C])
    alpha = exp2(select(q > -40.0, q, -40.0)) * table[at + OPACITY]
    return select(q > 0.0, 0.0, alpha)


@helper
def _pixels(pixels, number, left, top, width, height):  # type: ignore[no-untyped-def]
    """Centres x, y of a block's pixels, and 1 for those inside the image, else 0."""
    x, y = load(pixels, 0) + number(left), load(pixels, LANES) + number(top)
    none = x - x
    return x, y, select((x < number(width)) & (y < number(height)), none + 1.0, none)


@helper
def _gather(i, g, at, splats, rows, stride, table, channels):  # type: ignore[no-untyped-def]
    """Copy the splat at position `at` and the channels of its Gaussian g to row i of the tile's own tables."""
    for c in range(SPLAT):
        table[i * SPLAT + c] = splats[at + c]
    for c in range(0, stride, LANES):
        store(channels, i * stride + c, load(rows, g * stride + c))
    channels[i * stride + 3] = splats[at + DEPTH]


@helper
def _members(masks, count, b, listed):  # type: ignore[no-untyped-def]
    """List the i < count whose mask has bit b; returns their number."""
    n = 0
    for i in range(count):
        listed[n] = i
        n += (masks[i] >> b) & 1
    return n


@helper
def _fetch_ahead(b, first, last, v, entries, splats, rows):  # type: ignore[no-untyped-def]
    """Before block b: have a sixteenth of the entries first <= i < last brought into the cache, for `_gather`."""
    G, stride = rows.shape
    share = (last - first + BLOCKS - 1) // BLOCKS
    for i in range(first + b * share, min(first + (b + 1) * share, last)):
        g = np.int64(entries[i])
        prefetch(splats, (v * G + g) * SPLAT)
        for c in range(0, stride, 16):
            prefetch(rows, g * stride + c)


@kernel
def blend(  # type: ignore[no-untyped-def]
    first, last, tiles_x, tiles_y, starts, ends, entries, splats, rows, pixels, cells,
    hits, image, depths, image_features, transmittance,
):  # fmt: skip
    """Blend the tiles first <= t < last front to back: sums of channel alpha T (Eq. 3).

    Args:
        starts, ends: [tiles], of the entries of each; entries: [E] int32 Gaussians; splats: [V * G * SPLAT]; rows:
            [G, channels].
        pixels: [2 * 16], x and y of a block's pixel centres; cells: as in `touched`.
        hits: [E] uint16, zero; written: bit b where the entry is blended in block b.
        image [V, H, W, 3], depths [V, H, W], image_features [V, H, W, F], transmittance [V, H, W]: written.
    """
    number = splats.dtype.type
    _, H, W = transmittance.shape
    G, stride = rows.shape
    used = (4 + image_features.shape[3] + 3) // 4 * 4
    table, channels = np.empty(_BATCH * SPLAT, splats.dtype), np.empty(_BATCH * stride, splats.dtype)
    masks, listed, entry_of = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64)
    blended, offsets = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.int64)
    weights, sums = np.empty((_BATCH, LANES), splats.dtype), np.empty((BLOCKS, stride, LANES), splats.dtype)
    passing, passed = np.empty((BLOCKS, LANES), splats.dtype), np.empty((BLOCKS, LANES), splats.dtype)
    by_pixel = np.empty((LANES, stride), splats.dtype)
    places, columns = np.arange(stride) * LANES, np.arange(stride)
    for t in range(first, last):
        v, left, top = t // (tiles_x * tiles_y), t % tiles_x * TILE, t // tiles_x % tiles_y * TILE
        alive = _start(left, top, W, H, number, pixels, passing)
        passed[:], sums[:] = number(0.0), number(0.0)
        for start in range(starts[t], ends[t], _BATCH):
            filled = 0
            for i in range(start, min(start + _BATCH, ends[t])):
                g = np.int64(entries[i])
                at = (v * G + g) * SPLAT
                mask = touched(splats, at, number(left), number(top), number(BLOCK), cells) & alive
                if mask:
                    _gather(filled, g, at, splats, rows, stride, table, channels)
                    masks[filled], entry_of[filled] = mask, i
                    filled += 1
            then, until = start + _BATCH, ends[t]
            if then >= until and t + 1 < last:
                then, until = starts[t + 1], ends[t + 1]
            for b in range(BLOCKS):
                _fetch_ahead(b, then, min(then + _BATCH, until), v, entries, splats, rows)
                length = _members(masks, filled, b, listed)
                if length == 0:
                    continue
                x, y, _ = _pixels(pixels, number, left + b % 4 * BLOCK, top + b // 4 * BLOCK, W, H)
                T, end = load(passing, b * LANES), load(passed, b * LANES)
                n, T, end = _weigh(listed, length, table, stride, x, y, T, end, weights, blended, offsets)
                if bits(T > 0.0) == 0:
                    alive &= ~(1 << b)
                store(passing, b * LANES, T)
                store(passed, b * LANES, end)
                for k in range(n):
                    hits[entry_of[blended[k]]] |= np.uint16(1 << b)
                add_products(channels, columns, offsets, weights, LANES, n, sums, b * stride * LANES, places, used, 1)
            if alive == 0:
                break
        _write(v, left, top, sums, passing, passed, by_pixel, image, depths, image_features, transmittance)


@helper
def _weigh(listed, length, table, stride, x, y, T, end, weights, blended, offsets):  # type: ignore[no-untyped-def]
    """Weights alpha T of a block, front to back, for the listed rows of `table` that are blended in any pixel.

    A pixel ends in front of the splat that would bring T to MIN_TRANSMITTANCE or below: its T goes over to `end`, and
    is 0 from there on.

    Returns:
        How many rows are blended, which stand in `blended` (their channels at `offsets`); T and `end` behind them.
    """
    n = 0
    for k in range(length):
        i = listed[k]
        alpha = _unbounded_alphas(table, i * SPLAT, x, y)
        visible = alpha >= MIN_ALPHA
        weight = select(visible, select(alpha > MAX_ALPHA, MAX_ALPHA, alpha), 0.0) * T
        goes_on = weight < T - MIN_TRANSMITTANCE
        store(weights, n * LANES, select(goes_on, weight, 0.0))
        blended[n], offsets[n] = i, i * stride
        n += bits(visible & goes_on) != 0
        end = end + select(goes_on, 0.0, T)
        T = select(goes_on, T - weight, 0.0)
        if bits(T > 0.0) == 0:
            break
    return n, T, end


@helper
def _start(left, top, width, height, number, pixels, passing):  # type: ignore[no-untyped-def]
    """Transmittance in front of everything: 1 inside the image, 0 outside; and the blocks with a pixel inside."""
    alive = 0
    for b in range(BLOCKS):
        _, _, inside = _pixels(pixels, number, left + b % 4 * BLOCK, top + b // 4 * BLOCK, width, height)
        store(passing, b * LANES, inside)
        if bits(inside > 0.0) != 0:
            alive |= 1 << b
    return alive


@helper
def _write(v, left, top, sums, passing, passed, by_pixel, image, depths, features, transmittance):  # type: ignore[no-untyped-def]
    """A tile's blocks of [channel, pixel] into the images; pixels that ended and those that did not add to T."""
    _, H, W = transmittance.shape
    stride = sums.shape[1]
    for b in range(BLOCKS):
        for c in range(0, stride, LANES):
            transpose(sums, (b * stride + c) * LANES, LANES, by_pixel, c, stride)
        for p in range(LANES):
            x, y = left + b % 4 * BLOCK + p % BLOCK, top + b // 4 * BLOCK + p // BLOCK
            if x < W and y < H:
                for c in range(3):
                    image[v, y, x, c] = by_pixel[p, c]
                depths[v, y, x] = by_pixel[p, 3]
                for c in range(features.shape[3]):
                    features[v, y, x, c] = by_pixel[p, 4 + c]
                transmittance[v, y, x] = passing[b, p] + passed[b, p]


@kernel
def blend_backward(  # type: ignore[no-untyped-def]
    first, last, tiles_x, tiles_y, starts, ends, entries, hits, row_starts, splats, rows, pixels,
    grad_image, grad_depths, grad_features, grad_transmittance, table_of_rows, row_gaussian,
):  # fmt: skip
    """Gradients of the tiles first <= t < last with respect to each row's channels and to log alpha.

    With d the gradient to the weight alpha T of a pixel and U the gradient to the transmittance behind the splat,
    the gradient to alpha is T (d - U), and to log alpha v = weight (d - U), or 0 where alpha is clamped. In front of
    the splat U is alpha d + (1 - alpha) U; at the end of the pixel it is the gradient to its transmittance.

    Args:
        as in `blend`; hits: what it wrote.
        row_starts: [tiles + 1]: rows of each tile, its entries with any hit.
        grad_image, ...: gradients to what `blend` wrote.
        table_of_rows: [R, channels + 8], written: see `project_backward`.
        row_gaussian: [R] int32, written.
    """
    number = splats.dtype.type
    G, stride = rows.shape
    F, width = grad_features.shape[3], table_of_rows.shape[1]
    zero = number(0.0)
    most = 0
    for t in range(first, last):
        most = max(most, (row_starts[t + 1] - row_starts[t] + 3) // 4 * 4)
    table, channels = np.empty(most * SPLAT, splats.dtype), np.empty(most * stride, splats.dtype)
    masks, listed = np.empty(most, np.int64), np.empty(most, np.int64)
    weights, alphas = np.empty((most, LANES), splats.dtype), np.empty((most, LANES), splats.dtype)
    gradients = np.empty((most, LANES), splats.dtype)  # d
    by_channel, by_pixel = np.empty((stride, LANES), splats.dtype), np.zeros((LANES, stride), splats.dtype)
    ending = np.empty(LANES, splats.dtype)
    of_channels, of_rows = np.empty(most, np.int64), np.empty(most, np.int64)
    places, columns = np.arange(most) * LANES, np.arange(max(stride, LANES))
    for t in range(first, last):
        v, left, top = t // (tiles_x * tiles_y), t % tiles_x * TILE, t // tiles_x % tiles_y * TILE
        r, r0 = 0, row_starts[t]
        for i in range(starts[t], ends[t]):
            mask = np.int64(hits[i])
            if mask == 0:
                continue
            g = np.int64(entries[i])
            _gather(r, g, (v * G + g) * SPLAT, splats, rows, stride, table, channels)
            row_gaussian[r0 + r] = g
            for c in range(width):
                table_of_rows[r0 + r, c] = zero
            masks[r] = mask
            r += 1
        filled, then = r, min(t + 1, last - 1)
        for b in range(BLOCKS):
            _fetch_ahead(b, starts[then], ends[then], v, entries, splats, rows)
            n = _members(masks, filled, b, listed)
            if n == 0:
                continue
            x0, y0 = left + b % 4 * BLOCK, top + b // 4 * BLOCK
            _read(
                v, x0, y0, grad_image, grad_depths, grad_features, grad_transmittance, by_channel, by_pixel, ending,
            )  # fmt: skip
            x, y, T = _pixels(pixels, number, x0, y0, grad_depths.shape[2], grad_depths.shape[1])
            for k in range(n):
                of_channels[k], of_rows[k] = listed[k] * stride, (r0 + listed[k]) * width
            _weigh_again(listed, n, table, x, y, T, weights, alphas, gradients)
            whole = (n + 3) // 4 * 4
            for k in range(n, whole):  # no weight: adds nothing
                of_channels[k], of_rows[k] = of_channels[n - 1], of_rows[n - 1]
                store(gradients, k * LANES, x - x)
                store(weights, k * LANES, x - x)
            add_products(channels, of_channels, columns, by_channel, LANES, 4 + F, gradients, 0, places, whole, 1)
            _add_moments(listed, n, table, x, y, load(ending, 0), weights, alphas, gradients, table_of_rows, of_rows)
            add_products(
                weights, places, columns, by_pixel, stride, LANES, table_of_rows, 0, of_rows, whole, stride // LANES
            )


@helper
def _read(v, left, top, image, depths, features, end, by_channel, by_pixel, ending):  # type: ignore[no-untyped-def]
    """The gradients of a block's pixels, once as [channel, pixel] and once as [pixel, channel]; 0 outside the image.

    `ending` becomes the gradient to the transmittance at the end.
    """
    _, H, W = depths.shape
    zero, stride = ending.dtype.type(0.0), by_pixel.shape[1]
    for p in range(LANES):
        x, y = left + p % BLOCK, top + p // BLOCK
        if x < W and y < H:
            for c in range(3):
                by_pixel[p, c] = image[v, y, x, c]
            by_pixel[p, 3] = depths[v, y, x]
            for c in range(features.shape[3]):
                by_pixel[p, 4 + c] = features[v, y, x, c]
            ending[p] = end[v, y, x]
        else:
            ending[p] = zero
            for c in range(stride):
                by_pixel[p, c] = zero
    for c in range(0, stride, LANES):
        transpose(by_pixel, c, stride, by_channel, c * LANES, LANES)


@helper
def _weigh_again(listed, n, table, x, y, T, weights, alphas, gradients):  # type: ignore[no-untyped-def]
    """Weights and alphas of a block, 0 where not blended, as in `_weigh`; and zeros for the gradients to come."""
    for k in range(n):
        alpha = _unbounded_alphas(table, listed[k] * SPLAT, x, y)
        alpha = select(alpha >= MIN_ALPHA, select(alpha > MAX_ALPHA, MAX_ALPHA, alpha), 0.0)
        weight = alpha * T
        goes_on = weight < T - MIN_TRANSMITTANCE
        store(gradients, k * LANES, x - x)
        store(weights, k * LANES, select(goes_on, weight, 0.0))
        store(alphas, k * LANES, select(goes_on, alpha, 0.0))
        T = select(goes_on, T - weight, 0.0)


@helper
def _add_moments(listed, n, table, x, y, U, weights, alphas, gradients, rows, of_rows):  # type: ignore[no-untyped-def]
    """Back to front: v of `blend_backward` for each pixel; its sums with 1, dx, dy, ... onto the ends of the rows."""
    none, moments = x - x, rows.shape[1] - 8
    for k in range(n - 1, -1, -1):
        at = listed[k] * SPLAT
        alpha, change = load(alphas, k * LANES), load(gradients, k * LANES) - U
        v = select(alpha < MAX_ALPHA, load(weights, k * LANES) * change, 0.0)
        U = fma(alpha, change, U)
        dx, dy = x - table[at + X], y - table[at + Y]
        vx, vy = v * dx, v * dy
        add_sums(rows, of_rows[k] + moments, (v, vx, vy, vx * dx, vx * dy, vy * dy, none, none))
