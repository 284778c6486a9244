"""Vectors of 16 numbers for numba kernels, one number per pixel of a 4 x 4 block, and the one matrix product.

`Lanes` is a type inside kernels only: it has + - * /, comparisons, `&`, and the functions below, each of which becomes
one or a few vector instructions, so that kernels read as the formulas they compute. A number beside a vector is spread
over all its lanes. Arrays are addressed as if flat, and nothing checks bounds.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16
WIDE = bool(llvm.get_host_cpu_features().get("avx512f"))  # 32 registers of 64 bytes; otherwise 16 of 32 bytes
_SOURCES = tuple(sorted((file.name, *file.stat()[6:9:2]) for file in Path(__file__).parent.glob("*.py")))  # size, time
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use without the GIL, from numba's cache where there is a folder for one.

    numba compiles again when the kernel's own file has changed; here it does so for any file of this package, because
    helpers and constants are compiled into a kernel.
    """
    try:
        compiled: Any = njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder that can be written to
        return helper(function)
    with contextlib.suppress(AttributeError):  # private to numba; without it only the kernel's own file counts
        compiled._cache._cache_file._source_stamp = _SOURCES
    return compiled  # type: ignore[no-any-return]


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call; it is compiled into them."""
    compiled: Callable[..., Any] = njit(nogil=True, error_model="numpy")(function)
    return compiled


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    defined: Callable[..., Any] = intrinsic(prefer_literal=True)(function)
    return defined


class Lanes(types.Type):
    """16 numbers of one kind, or 16 truth values."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Lanes({dtype})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _vector_type(kind.dtype))  # type: ignore[no-untyped-call]


_TRUTHS = Lanes(types.boolean)


def _vector_type(dtype: Any) -> Any:
    element = {types.boolean: ir.IntType(1), types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[dtype]
    return ir.VectorType(element, LANES)


def _spread(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))


def _all_lanes(context: Any, builder: Any, kinds: Any, values: Any) -> list[Any]:
    """The values as vectors of the kind that the vectors among them have."""
    dtype = next(kind.dtype for kind in kinds if isinstance(kind, Lanes))
    return [
        value if isinstance(kind, Lanes) else _spread(builder, context.cast(builder, value, kind, dtype))
        for kind, value in zip(kinds, values, strict=True)
    ]


def _define(operation: Any, emit: Callable[[Any, Any, Any], Any], compares: bool) -> None:
    """Give `operation` a meaning for (Lanes, Lanes), (Lanes, number) and (number, Lanes)."""

    @type_callable(operation)
    def typer(context: Any) -> Callable[[Any, Any], Any]:
        def result(left: Any, right: Any) -> Any:
            lanes = left if isinstance(left, Lanes) else right
            if not isinstance(lanes, Lanes) or not all(isinstance(x, Lanes | types.Number) for x in (left, right)):
                return None
            return _TRUTHS if compares else lanes

        return result

    def lower(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *_all_lanes(context, builder, signature.args, arguments))

    for kinds in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(operation, *kinds)(lower)


_define(operator.add, lambda builder, left, right: builder.fadd(left, right), False)
_define(operator.sub, lambda builder, left, right: builder.fsub(left, right), False)
_define(operator.mul, lambda builder, left, right: builder.fmul(left, right), False)
_define(operator.truediv, lambda builder, left, right: builder.fdiv(left, right), False)
_define(operator.and_, lambda builder, left, right: builder.and_(left, right), False)
_define(operator.ge, lambda builder, left, right: builder.fcmp_ordered(">=", left, right), True)
_define(operator.gt, lambda builder, left, right: builder.fcmp_ordered(">", left, right), True)
_define(operator.le, lambda builder, left, right: builder.fcmp_ordered("<=", left, right), True)
_define(operator.lt, lambda builder, left, right: builder.fcmp_ordered("<", left, right), True)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [offset])


def _load_lanes(builder: Any, pointer: Any, scalar: Any) -> Any:
    place = builder.bitcast(pointer, ir.VectorType(scalar, LANES).as_pointer())
    return builder.load(place, align=_bytes(scalar))


def _store_lanes(builder: Any, vector: Any, pointer: Any, scalar: Any) -> None:
    place = builder.bitcast(pointer, vector.type.as_pointer())
    builder.store(vector, place, align=_bytes(scalar))


def _bytes(scalar: Any) -> int:
    return 4 if isinstance(scalar, ir.FloatType) else 8


def _llvm_call(builder: Any, name: str, *arguments: Any) -> Any:
    vector = arguments[0].type
    function = ir.FunctionType(vector, [vector] * len(arguments))
    full_name = f"llvm.{name}.v{LANES}f{8 * _bytes(vector.element)}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, full_name), arguments)


@_intrinsic
def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """The 16 numbers from flat position `offset` of `array`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return _load_lanes(builder, pointer, context.get_data_type(signature.args[0].dtype))

    return Lanes(array.dtype)(array, types.int64), generate


@_intrinsic
def store(typing_context, array, offset, vector):  # type: ignore[no-untyped-def]
    """Write 16 numbers from flat position `offset` of `array`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        _store_lanes(builder, arguments[2], pointer, arguments[2].type.element)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@_intrinsic
def fma(typing_context, x, y, z):  # type: ignore[no-untyped-def]
    """x y + z, rounded once; any but one of them may be a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _llvm_call(builder, "fma", *_all_lanes(context, builder, signature.args, arguments))

    return next(kind for kind in (x, y, z) if isinstance(kind, Lanes))(x, y, z), generate


@_intrinsic
def select(typing_context, condition, yes, no):  # type: ignore[no-untyped-def]
    """Lane by lane `yes` where `condition` holds, else `no`; one of the two may be a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(arguments[0], *_all_lanes(context, builder, signature.args[1:], arguments[1:]))

    return next(kind for kind in (yes, no) if isinstance(kind, Lanes))(condition, yes, no), generate


@_intrinsic
def bits(typing_context, condition):  # type: ignore[no-untyped-def]
    """Truth values as an int64, lane i as bit i."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(LANES)), _INT64)

    return types.int64(condition), generate


@_intrinsic
def lowest_bit(typing_context, mask):  # type: ignore[no-untyped-def]
    """The number of the lowest bit set in `mask`, which is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


@_intrinsic
def prefetch(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Have the memory at flat position `offset` of `array` brought into the cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.bitcast(_pointer(context, builder, signature.args[0], *arguments), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, *(ir.Constant(_INT32, value) for value in (0, 3, 1))])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@_intrinsic
def transpose(typing_context, source, first, source_step, target, target_first, target_step):  # type: ignore[no-untyped-def]
    """``target[target_first + j * target_step + i] = source[first + i * source_step + j]`` for i, j < 16."""
    integer = types.int64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, first, source_step, target, target_first, target_step = arguments
        scalar = context.get_data_type(signature.args[0].dtype)

        def place(kind: Any, array: Any, start: Any, step: Any, row: int) -> Any:
            offset = builder.add(start, builder.mul(step, ir.Constant(_INT64, row)))
            return _pointer(context, builder, kind, array, offset)

        rows = [
            _load_lanes(builder, place(signature.args[0], source, first, source_step, i), scalar) for i in range(LANES)
        ]
        for half in (8, 4, 2, 1):  # exchange the off-diagonal quarters of every square of 2 half rows and columns
            for i in (i for i in range(LANES) if not i & half):
                upper, lower = rows[i], rows[i + half]
                keeps = [j if not j & half else LANES + j - half for j in range(LANES)]
                rows[i] = _picked(builder, upper, lower, keeps)
                rows[i + half] = _picked(builder, upper, lower, [at + half for at in keeps])
        for j, row in enumerate(rows):
            _store_lanes(builder, row, place(signature.args[3], target, target_first, target_step, j), scalar)
        return context.get_dummy_value()

    return types.void(source, integer, integer, target, integer, integer), generate


def _power_series(degree: int) -> list[float]:
    """Coefficients of 2^x on [-0.5, 0.5], lowest first: 1 + x times a Chebyshev interpolation, so that 2^0 is 1."""
    series: Any = np.polynomial.Chebyshev.interpolate(lambda x: np.expm1(x * math.log(2)) / x, degree - 1, (-0.5, 0.5))
    return [1.0, *(float(value) for value in series.convert(kind=np.polynomial.Polynomial).coef)]


@_intrinsic
def exp2(typing_context, x):  # type: ignore[no-untyped-def]
    """2^x for -100 <= x <= 100, right to the last digit or two."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = arguments[0].type
        single = isinstance(vector.element, ir.FloatType)
        integer, mantissa, degree = (_INT32, 23, 6) if single else (_INT64, 52, 12)
        integers = ir.VectorType(integer, LANES)
        whole = _llvm_call(builder, "rint", arguments[0])
        rest = builder.fsub(arguments[0], whole)
        *low, total = (ir.Constant(vector, [value] * LANES) for value in _power_series(degree))
        for coefficient in reversed(low):
            total = _llvm_call(builder, "fma", total, rest, coefficient)
        shift = ir.Constant(integers, [mantissa] * LANES)
        exponent = builder.shl(builder.fptosi(whole, integers), shift)
        return builder.bitcast(builder.add(builder.bitcast(total, integers), exponent), vector)

    return x(x), generate


@_intrinsic
def add_sums(typing_context, array, offset, vectors):  # type: ignore[no-untyped-def]
    """``array[offset + i] += sum of the lanes of vectors[i]``, for the 8 of a tuple; halves of pairs are added up."""
    order = (0, 4, 2, 6, 1, 5, 3, 7)  # pairs of pairs of pairs: their sums come out in the order of reversed bits

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = cgutils.unpack_tuple(builder, arguments[2])
        level = [given[i] for i in order]
        scalar, width = level[0].type.element, LANES
        for half in (8, 4, 2):
            level = [_added_halves(builder, a, b, width, half) for a, b in zip(level[::2], level[1::2], strict=True)]
        sums = builder.fadd(
            _picked(builder, level[0], level[0], list(range(0, width, 2))),
            _picked(builder, level[0], level[0], list(range(1, width, 2))),
        )
        pointer = _pointer(context, builder, signature.args[0], *arguments[:2])
        old = builder.load(builder.bitcast(pointer, sums.type.as_pointer()), align=_bytes(scalar))
        _store_lanes(builder, builder.fadd(old, sums), pointer, scalar)
        return context.get_dummy_value()

    return types.void(array, types.int64, vectors), generate


def _picked(builder: Any, left: Any, right: Any, positions: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(_INT32, len(positions)), positions)
    return builder.shuffle_vector(left, right, mask)


def _added_halves(builder: Any, left: Any, right: Any, width: int, half: int) -> Any:
    """In groups of 2 * half lanes: the group's halves of `left` added, then those of `right`, in a vector as wide."""
    groups = range(0, width, 2 * half)
    first = [at + i for at in groups for i in range(half)]
    low = _picked(builder, left, right, _joined(first, width, half))
    high = _picked(builder, left, right, _joined([i + half for i in first], width, half))
    return builder.fadd(low, high)


def _joined(positions: list[int], width: int, half: int) -> list[int]:
    """Groups of `half` positions of a first vector, each followed by the same positions of a second."""
    groups = (positions[at : at + half] for at in range(0, len(positions), half))
    return [i for group in groups for i in (*group, *(width + j for j in group))]


@_intrinsic
def _add_tile(  # type: ignore[no-untyped-def]
    typing_context, height, width, a, a_rows, at, a_steps, b, b_first, b_step, count, out, out_first, out_rows
):
    """See `add_products`; `height` rows from `at` on and 16 `width` columns, all sums in registers."""
    integer = types.int64
    kinds = height, width, a, a_rows, integer, a_steps, b, integer, integer, integer, out, integer, out_rows

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, _, a, a_rows, at, a_steps, b, b_first, b_step, count, out, out_first, out_rows = arguments
        scalar = context.get_data_type(signature.args[2].dtype)
        zero = ir.Constant(ir.VectorType(scalar, LANES), None)
        columns = [ir.Constant(_INT64, v * LANES) for v in range(width.literal_value)]
        rows = [builder.add(at, ir.Constant(_INT64, r)) for r in range(height.literal_value)]

        def pointer(position: int, array: Any, at: Any) -> Any:
            return _pointer(context, builder, signature.args[position], array, at)

        sums = [[cgutils.alloca_once_value(builder, zero) for _ in columns] for _ in rows]
        for slot in itertools.chain(*sums):
            builder.store(zero, slot)
        starts = [pointer(2, a, builder.load(pointer(3, a_rows, row))) for row in rows]
        with cgutils.for_range(builder, count) as loop:
            b_row = pointer(6, b, builder.add(b_first, builder.mul(loop.index, b_step)))
            loaded = [_load_lanes(builder, builder.gep(b_row, [column]), scalar) for column in columns]
            step = builder.load(pointer(5, a_steps, loop.index))
            for start, slots in zip(starts, sums, strict=True):
                value = _spread(builder, builder.load(builder.gep(start, [step])))
                for slot, vector in zip(slots, loaded, strict=True):
                    builder.store(_llvm_call(builder, "fma", value, vector, builder.load(slot)), slot)
        for row, slots in zip(rows, sums, strict=True):
            out_row = pointer(10, out, builder.add(out_first, builder.load(pointer(12, out_rows, row))))
            for slot, column in zip(slots, columns, strict=True):
                place = builder.gep(out_row, [column])
                total = builder.fadd(_load_lanes(builder, place, scalar), builder.load(slot))
                _store_lanes(builder, total, place, scalar)
        return context.get_dummy_value()

    return types.void(*kinds), generate


@helper
def add_products(a, a_rows, a_steps, b, b_step, count, out, out_first, out_rows, rows, vectors):  # type: ignore[no-untyped-def]
    """A matrix product whose rows may lie anywhere, with fused multiply-adds.

    ``out[out_first + out_rows[r] + j] += sum over n < count of a[a_rows[r] + a_steps[n]] * b[n * b_step + j]``
    for r < rows and j < 16 * vectors; `rows` is a multiple of 4.
    """
    columns, r = vectors * LANES, 0
    while WIDE and r + 8 <= rows:
        for j in range(0, columns - LANES, 2 * LANES):
            _add_tile(8, 2, a, a_rows, r, a_steps, b, j, b_step, count, out, out_first + j, out_rows)
        if vectors % 2:
            j = columns - LANES
            _add_tile(8, 1, a, a_rows, r, a_steps, b, j, b_step, count, out, out_first + j, out_rows)
        r += 8
    while r < rows:
        for j in range(0, columns, LANES):
            _add_tile(4, 1, a, a_rows, r, a_steps, b, j, b_step, count, out, out_first + j, out_rows)
        r += 4
