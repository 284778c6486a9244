"""Vectors of 16 numbers for numba kernels, one number per pixel of a 4 x 4 block, and the one matrix product.

`Lanes` is a type inside kernels only: it has + - * /, comparisons, `&`, and the functions below, each of which becomes
one or a few vector instructions, so that kernels read as the formulas they compute. A number beside a vector is spread
over all its lanes. Arrays are addressed as if flat, and nothing checks bounds.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 16
_SOURCES = tuple(sorted((file.name, *file.stat()[6:9:2]) for file in Path(__file__).parent.glob("*.py")))  # size, time
_INT32, _INT64, _BYTES = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()


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
    defined: Callable[..., Any] = intrinsic(function)
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


def _define(operation: Any, emit: Callable[..., Any], compares: bool = False) -> None:
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


_define(operator.add, ir.IRBuilder.fadd)
_define(operator.sub, ir.IRBuilder.fsub)
_define(operator.mul, ir.IRBuilder.fmul)
_define(operator.truediv, ir.IRBuilder.fdiv)
_define(operator.and_, ir.IRBuilder.and_)
_define(operator.ge, lambda builder, left, right: builder.fcmp_ordered(">=", left, right), compares=True)
_define(operator.gt, lambda builder, left, right: builder.fcmp_ordered(">", left, right), compares=True)
_define(operator.lt, lambda builder, left, right: builder.fcmp_ordered("<", left, right), compares=True)


def _place(context: Any, builder: Any, kind: Any, array: Any, offset: Any) -> tuple[Any, int]:
    """Pointer to the 16 numbers from flat position `offset` of `array`, and the bytes of one."""
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [offset])
    return builder.bitcast(start, _vector_type(kind.dtype).as_pointer()), kind.dtype.bitwidth // 8


@_intrinsic
def load(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """The 16 numbers from flat position `offset` of `array`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, align = _place(context, builder, signature.args[0], *arguments)
        return builder.load(place, align=align)

    return Lanes(array.dtype)(array, types.int64), generate


@_intrinsic
def store(typing_context, array, offset, vector):  # type: ignore[no-untyped-def]
    """Write 16 numbers from flat position `offset` of `array`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, align = _place(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], place, align=align)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), generate


@_intrinsic
def prefetch(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """Have the memory from flat position `offset` of `array` brought into the cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, _ = _place(context, builder, signature.args[0], *arguments)
        kind = ir.FunctionType(ir.VoidType(), [_BYTES, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        how = (ir.Constant(_INT32, value) for value in (0, 3, 1))  # to read, to keep, data
        builder.call(function, [builder.bitcast(place, _BYTES), *how])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


@_intrinsic
def spread(typing_context, array, offset):  # type: ignore[no-untyped-def]
    """The number at flat position `offset` of `array`, 16 times."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return _spread(builder, builder.load(builder.gep(data, [arguments[1]])))

    return Lanes(array.dtype)(array, types.int64), generate


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
def pair_sums(typing_context, left, right):  # type: ignore[no-untyped-def]
    """The sums of 8 pairs of neighbours in `left`, then those of the 8 in `right`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        even, odd = (ir.Constant(ir.VectorType(_INT32, LANES), [*range(first, 2 * LANES, 2)]) for first in (0, 1))
        return builder.fadd(builder.shuffle_vector(*arguments, even), builder.shuffle_vector(*arguments, odd))

    return left(left, right), generate


def _llvm_call(builder: Any, name: str, *vectors: Any) -> Any:
    kind = vectors[0].type
    name = f"llvm.{name}.v{LANES}f{32 if isinstance(kind.element, ir.FloatType) else 64}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * len(vectors)), name)
    return builder.call(function, vectors)


@_intrinsic
def fma(typing_context, x, y, z):  # type: ignore[no-untyped-def]
    """x y + z, rounded once; any but one of them may be a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _llvm_call(builder, "fma", *_all_lanes(context, builder, signature.args, arguments))

    return next(kind for kind in (x, y, z) if isinstance(kind, Lanes))(x, y, z), generate


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
        exponent = builder.shl(builder.fptosi(whole, integers), ir.Constant(integers, [mantissa] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(total, integers), exponent), vector)

    return x(x), generate


@helper
def add_products(a, a_rows, a_steps, b, b_step, count, out, out_rows, rows, vectors):  # type: ignore[no-untyped-def]
    """A matrix product whose rows may lie anywhere.

    ``out[out_rows[r] + j] += sum over n < count of a[a_rows[r] + a_steps[n]] * b[n * b_step + j]`` for r < rows and
    j < 16 * vectors. Six rows at a time, whose sums fit into the registers of AVX2; at the end the last row again and
    again, each time from the same numbers to the same sum.
    """
    for r in range(0, rows, 6):
        r1, r2, r3 = min(r + 1, rows - 1), min(r + 2, rows - 1), min(r + 3, rows - 1)
        r4, r5 = min(r + 4, rows - 1), min(r + 5, rows - 1)
        a0, a1, a2, a3, a4, a5 = a_rows[r], a_rows[r1], a_rows[r2], a_rows[r3], a_rows[r4], a_rows[r5]
        for j in range(0, vectors * LANES, LANES):
            out0, out1, out2 = out_rows[r] + j, out_rows[r1] + j, out_rows[r2] + j
            out3, out4, out5 = out_rows[r3] + j, out_rows[r4] + j, out_rows[r5] + j
            sum0, sum1, sum2 = load(out, out0), load(out, out1), load(out, out2)
            sum3, sum4, sum5 = load(out, out3), load(out, out4), load(out, out5)
            for n in range(count):
                step, vector = a_steps[n], load(b, n * b_step + j)
                sum0, sum1 = fma(spread(a, a0 + step), vector, sum0), fma(spread(a, a1 + step), vector, sum1)
                sum2, sum3 = fma(spread(a, a2 + step), vector, sum2), fma(spread(a, a3 + step), vector, sum3)
                sum4, sum5 = fma(spread(a, a4 + step), vector, sum4), fma(spread(a, a5 + step), vector, sum5)
            store(out, out0, sum0)
            store(out, out1, sum1)
            store(out, out2, sum2)
            store(out, out3, sum3)
            store(out, out4, sum4)
            store(out, out5, sum5)
