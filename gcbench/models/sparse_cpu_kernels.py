"""numba kernels of the sparse convolution on the CPU; `sparse_cpu` says what they compute and calls them.

Every product goes through one register tile: 8 rows times 1 to 3 vectors of channels, summed over a third axis with
fused multiply-adds. It is written as LLVM vectors because the compiler does not find this form by itself, and because a
row's sum must not depend on its place in a tile. All kernels are serial and release the GIL; the caller runs them on
disjoint blocks in several threads. They check no bounds.

Shape legend
    N, M  source, target rows     C, D  their channels     K  kernel offsets     P  pairs
    Channels that are written (D, or C of a weight gradient) are a multiple of `lanes(dtype)`.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import DTypeLike

_AVX512 = bool(llvm.get_host_cpu_features().get("avx512f"))
_VECTOR_BYTES = 64 if _AVX512 else 32
_WIDE = _AVX512  # 32 registers hold 8 x 3 sums; 16 registers hold 8 x 1
_PACKED = 256  # pairs whose rows are packed side by side for the weight gradient


def lanes(dtype: DTypeLike) -> int:
    """Channels in one vector."""
    return _VECTOR_BYTES // np.dtype(dtype).itemsize


def _tile_code(  # type: ignore[no-untyped-def]
    typing_context, a, a_at, a_step, b, b_at, b_step, count, out, out_at, vectors
):
    """``out[out_at[r] + j] += sum over n < count of a[a_at[r] + n * a_step] * b[b_at + n * b_step + j]``.

    For every row r of the tuples `a_at` and `out_at`, and j < vectors * lanes. The arrays are addressed as if flat.
    """
    rows, width = len(a_at), vectors.literal_value
    signature = types.void(a, a_at, a_step, b, b_at, b_step, count, out, out_at, vectors)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, a_at, a_step, b, b_at, b_step, count, out, out_at, _ = arguments
        scalar = context.get_data_type(signature.args[0].dtype)
        lane_count = lanes(str(signature.args[0].dtype))
        vector = ir.VectorType(scalar, lane_count)
        alignment = _VECTOR_BYTES // lane_count
        fma_type = ir.FunctionType(vector, [vector, vector, vector])
        fma = cgutils.get_or_insert_function(builder.module, fma_type, f"llvm.fma.v{lane_count}f{8 * alignment}")
        a_data, b_data, out_data = (
            context.make_array(signature.args[position])(context, builder, value).data
            for position, value in ((0, a), (3, b), (7, out))
        )

        def address(data: Any, *terms: Any) -> Any:
            offset = terms[0]
            for term in terms[1:]:
                offset = builder.add(offset, term)
            return builder.gep(data, [offset])

        def vector_at(pointer: Any, v: int) -> Any:
            moved = builder.gep(pointer, [ir.Constant(ir.IntType(64), v * lane_count)])
            return builder.bitcast(moved, vector.as_pointer())

        sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(rows * width)]
        for slot in sums:
            builder.store(ir.Constant(vector, None), slot)
        a_rows = [address(a_data, builder.extract_value(a_at, r)) for r in range(rows)]
        with cgutils.for_range(builder, count) as loop:
            b_row = address(b_data, b_at, builder.mul(loop.index, b_step))
            loaded = [builder.load(vector_at(b_row, v), align=alignment) for v in range(width)]
            step = builder.mul(loop.index, a_step)
            for r in range(rows):
                value = builder.load(address(a_rows[r], step), align=alignment)
                first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
                spread = ir.Constant(ir.VectorType(ir.IntType(32), lane_count), [0] * lane_count)
                same = builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), spread)
                for v in range(width):
                    slot = sums[r * width + v]
                    builder.store(builder.call(fma, [same, loaded[v], builder.load(slot)]), slot)
        for r in range(rows):
            row = address(out_data, builder.extract_value(out_at, r))
            for v in range(width):
                place = vector_at(row, v)
                old = builder.load(place, align=alignment)
                builder.store(builder.fadd(old, builder.load(sums[r * width + v])), place, align=alignment)
        return context.get_dummy_value()

    return signature, generate


_add_tile: Any = intrinsic(prefer_literal=True)(_tile_code)


@njit(cache=True, nogil=True, inline="always")
def _eight(index, p, stride):  # type: ignore[no-untyped-def]
    """Flat positions of eight indexed rows, as the tuple a tile takes."""
    return (
        np.int64(index[p]) * stride,
        np.int64(index[p + 1]) * stride,
        np.int64(index[p + 2]) * stride,
        np.int64(index[p + 3]) * stride,
        np.int64(index[p + 4]) * stride,
        np.int64(index[p + 5]) * stride,
        np.int64(index[p + 6]) * stride,
        np.int64(index[p + 7]) * stride,
    )


@njit(cache=True, nogil=True)
def _vectors(left):  # type: ignore[no-untyped-def]
    """Vectors of the next tile when `left` vectors of channels are left: threes, but twos rather than a lone one."""
    if not _WIDE or left == 1:
        return 1
    return 2 if left == 2 or left == 4 else 3


@njit(cache=True, nogil=True)
def _add_group(x, source, out, target, start, stop, weight, at, row_step, lane_count):  # type: ignore[no-untyped-def]
    """``out[target[p]] += x[source[p]] @ W`` for start <= p < stop; W's rows lie at ``weight[at + c * row_step]``."""
    C, D = x.shape[1], out.shape[1]
    j = 0
    while j < D:
        vectors = _vectors((D - j) // lane_count)
        p = start
        while p + 8 <= stop:
            rows, places = _eight(source, p, C), _eight(target, p, D)
            places = (
                places[0] + j, places[1] + j, places[2] + j, places[3] + j,
                places[4] + j, places[5] + j, places[6] + j, places[7] + j,
            )  # fmt: skip
            if vectors == 3:
                _add_tile(x, rows, 1, weight, at + j, row_step, C, out, places, 3)
            elif vectors == 2:
                _add_tile(x, rows, 1, weight, at + j, row_step, C, out, places, 2)
            else:
                _add_tile(x, rows, 1, weight, at + j, row_step, C, out, places, 1)
            p += 8
        while p < stop:
            row, place = (np.int64(source[p]) * C,), (np.int64(target[p]) * D + j,)
            if vectors == 3:
                _add_tile(x, row, 1, weight, at + j, row_step, C, out, place, 3)
            elif vectors == 2:
                _add_tile(x, row, 1, weight, at + j, row_step, C, out, place, 2)
            else:
                _add_tile(x, row, 1, weight, at + j, row_step, C, out, place, 1)
            p += 1
        j += vectors * lane_count


@njit(cache=True, nogil=True)
def gather_products(  # type: ignore[no-untyped-def]
    x, source, target, starts, weight, first_weight, offset_step, row_step, out, block, K, first, last, lane_count
):
    """``out[o] = sum over k, pairs (i, o) of k: x[i] @ W[k]`` for the target rows of blocks first <= b < last.

    Args:
        x: [N, C]; out: [M, D].
        source, target, starts, block: see `sparse_cpu.PairGroups`.
        weight: flat; row c of W[k] lies at ``first_weight + k * offset_step + c * row_step``.
    """
    for b in range(first, last):
        out[b * block : (b + 1) * block] = 0
        for k in range(K):
            start, stop = starts[b * K + k], starts[b * K + k + 1]
            _add_group(
                x, source, out, target, start, stop, weight, first_weight + k * offset_step, row_step, lane_count
            )


@njit(cache=True, nogil=True)
def _add_outer(y, x, count, grad, at, row_step, lane_count):  # type: ignore[no-untyped-def]
    """``grad[at + d * row_step + c] += sum over p < count: y[p, d] * x[p, c]``."""
    D, C = y.shape[1], x.shape[1]
    j = 0
    while j < C:
        vectors = _vectors((C - j) // lane_count)
        d = 0
        while d + 8 <= D:
            rows = (d, d + 1, d + 2, d + 3, d + 4, d + 5, d + 6, d + 7)
            place = at + d * row_step + j
            places = (
                place, place + row_step, place + 2 * row_step, place + 3 * row_step,
                place + 4 * row_step, place + 5 * row_step, place + 6 * row_step, place + 7 * row_step,
            )  # fmt: skip
            if vectors == 3:
                _add_tile(y, rows, D, x, j, C, count, grad, places, 3)
            elif vectors == 2:
                _add_tile(y, rows, D, x, j, C, count, grad, places, 2)
            else:
                _add_tile(y, rows, D, x, j, C, count, grad, places, 1)
            d += 8
        while d < D:
            for v in range(j, j + vectors * lane_count, lane_count):
                _add_tile(y, (d,), D, x, v, C, count, grad, (at + d * row_step + v,), 1)
            d += 1
        j += vectors * lane_count


@njit(cache=True, nogil=True)
def weight_gradient(x, y, x_index, y_index, starts, grad, k, lane_count):  # type: ignore[no-untyped-def]
    """``grad[:, k] = sum over pairs (i, o) of k: outer(y[o], x[i])``, for one kernel offset.

    Args:
        x: [N, C] input; y: [M, D] gradient of the output.
        x_index, y_index, starts: [P], [P], [blocks * K + 1]: pairs grouped as in `sparse_cpu.PairGroups`.
        grad: [D, K, C'] with C' >= C a multiple of the lanes; surplus channels become zero.
    """
    D, K, C = grad.shape
    grad[:, k] = 0
    x_rows, y_rows = np.zeros((_PACKED, C), x.dtype), np.empty((_PACKED, D), y.dtype)
    filled = 0
    for group in range(k, len(starts) - 1, K):
        for p in range(starts[group], starts[group + 1]):
            i, o = x_index[p], y_index[p]
            for c in range(x.shape[1]):
                x_rows[filled, c] = x[i, c]
            for d in range(D):
                y_rows[filled, d] = y[o, d]
            filled += 1
            if filled == _PACKED:
                _add_outer(y_rows, x_rows, filled, grad, k * C, K * C, lane_count)
                filled = 0
    if filled:
        _add_outer(y_rows, x_rows, filled, grad, k * C, K * C, lane_count)
