"""Vectors of 4 and 8 floats, and more, at memory addresses, for functions that Numba compiles.

Numba leaves vectors to the compiler, which does not find them in loops of a few steps over memory
that may overlap. So loads, stores and the four operations are LLVM's own here. ``address`` is a
pointer as int64, ``index`` counts floats; alignment to 4 bytes is enough. Nothing is checked.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

__all__ = [
    "claim",
    "floats",
    "high",
    "integers",
    "load1",
    "load4",
    "load8",
    "ones",
    "prefetch",
    "prefetch_to_write",
    "root",
    "small_integers",
    "splat4",
    "splat8",
    "store",
    "total",
]

_FLOAT = ir.FloatType()
Generate = Callable[[Any, Any, Any, Any], Any]
Intrinsic = tuple[Any, Generate]


class Lanes(types.Type):
    """The type of ``count`` floats."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(name=f"Lanes{count}")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    """A vector register."""

    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _vector(lanes.count))


def _vector(count: int) -> Any:
    return ir.VectorType(_FLOAT, count)


FOUR, EIGHT = Lanes(4), Lanes(8)


def _register(operation: Callable[[Any, Any], Any], instruction: str) -> None:
    @type_callable(operation)
    def typed(context: Any) -> Callable[[Any, Any], Any]:
        def typer(a: Any, b: Any) -> Any:
            return a if isinstance(a, Lanes) and a == b else None

        return typer

    for lanes in (FOUR, EIGHT):

        @lower_builtin(operation, lanes, lanes)
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=("contract",))


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")
_register(operator.truediv, "fdiv")


def _pointer(builder: Any, address: Any, index: Any, kind: Any) -> Any:
    first = builder.inttoptr(address, _FLOAT.as_pointer())
    return builder.bitcast(builder.gep(first, [index]), kind.as_pointer())


def _loader(result: Any, kind: Any) -> Any:
    @intrinsic
    def load(context: Any, address: Any, index: Any) -> Intrinsic:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_pointer(builder, args[0], args[1], kind), align=4)

        return result(types.intp, types.intp), generate

    return load


load1 = _loader(types.float32, _FLOAT)
load4 = _loader(FOUR, _vector(4))
load8 = _loader(EIGHT, _vector(8))


@intrinsic
def store(context: Any, address: Any, index: Any, value: Any) -> Intrinsic:
    """Write one float, four or eight."""
    if not isinstance(value, Lanes):
        value = types.float32
    kind = _vector(value.count) if isinstance(value, Lanes) else _FLOAT

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(builder, args[0], args[1], kind), align=4)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, value), generate


def _pointer_maker(kind: Any) -> Any:
    @intrinsic
    def make(context: Any, address: Any) -> Intrinsic:
        result = types.CPointer(kind)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(result))

        return result(types.intp), generate

    return make


integers, floats = _pointer_maker(types.int64), _pointer_maker(types.float32)
"""An address as a pointer, for ``numba.carray``."""
small_integers = _pointer_maker(types.int32)


@intrinsic
def claim(context: Any, address: Any) -> Intrinsic:
    """Add one to an int64 that threads share; what it was before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = ir.IntType(64)
        place = builder.inttoptr(args[0], number.as_pointer())
        return builder.atomic_rmw("add", place, number(1), "monotonic")

    return types.int64(types.intp), generate


@intrinsic
def high(context: Any, x: Any, y: Any) -> Intrinsic:
    """The upper 64 bits of the product of two words, both taken as unsigned."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(arg, wide) for arg in args))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def ones(context: Any, word: Any) -> Intrinsic:
    """How many bits of an int64 are set."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.int64), generate


def _splatter(result: Lanes) -> Any:
    @intrinsic
    def splat(context: Any, value: Any) -> Intrinsic:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out = ir.Constant(_vector(result.count), ir.Undefined)
            for k in range(result.count):
                out = builder.insert_element(out, args[0], ir.Constant(ir.IntType(32), k))
            return out

        return result(types.float32), generate

    return splat


splat4, splat8 = _splatter(FOUR), _splatter(EIGHT)


@intrinsic
def root(context: Any, value: Any) -> Intrinsic:
    """Square root of every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = args[0].type
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), f"llvm.sqrt.v{kind.count}f32"
        )
        return builder.call(function, args)

    return value(value), generate


@intrinsic
def total(context: Any, value: Any) -> Intrinsic:
    """Sum of the lanes, in a fixed order: halves are added."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = [
            builder.extract_element(args[0], ir.Constant(ir.IntType(32), k))
            for k in range(args[0].type.count)
        ]
        while len(found) > 1:
            half = len(found) // 2
            found = [builder.fadd(a, b) for a, b in zip(found[:half], found[half:], strict=True)]
        return found[0]

    return types.float32(value), generate


def _prefetcher(to_write: int) -> Any:
    @intrinsic
    def fetch(context: Any, address: Any, index: Any) -> Intrinsic:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            function = builder.module.declare_intrinsic(
                "llvm.prefetch",
                [byte],
                ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
            )
            pointer = _pointer(builder, args[0], args[1], ir.IntType(8))
            builder.call(function, [pointer, number(to_write), number(3), number(1)])
            return context.get_dummy_value()

        return types.void(types.intp, types.intp), generate

    return fetch


prefetch, prefetch_to_write = _prefetcher(0), _prefetcher(1)
"""Ask for the cache line of a float; any address is allowed, and nothing is read."""
