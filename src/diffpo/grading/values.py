"""Values of expressions that `latex` read: exact fractions as far as they go, else complex floats, in bounded time."""

from __future__ import annotations

import cmath
import hashlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

from diffpo.grading.latex import Node, Unreadable

MAX_BITS = 8192
"""Size of an exact number; beyond it floats take over, which overflow instead of growing."""
MAX_FACTORIAL = 300
TOLERANCE = 1e-10
"""Relative difference of equal floats. Fractions are equal or not."""
POINTS = range(3)
"""Variables take a few positive values each: expressions that agree at all of them are the same."""

Number = Fraction | complex

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    **{name: getattr(cmath, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan")},
    "ln": cmath.log,
    "cot": lambda x: 1 / cmath.tan(x),
    "sec": lambda x: 1 / cmath.cos(x),
    "csc": lambda x: 1 / cmath.sin(x),
}
_CONSTANTS: dict[str, Number] = {"pi": complex(math.pi), "infty": complex(math.inf), "i": 1j, "e": complex(math.e)}


def symbols(node: Node) -> frozenset[str]:
    """The variables of an expression."""
    own = {node.name} if node.op == "symbol" and node.name not in _CONSTANTS else set()
    return frozenset(own.union(*map(symbols, node.args)))


def operations(node: Node) -> Iterator[str]:
    """The operations of an expression; a function goes by its name."""
    yield node.name if node.op == "function" else node.op
    for arg in node.args:
        yield from operations(arg)


def evaluate(node: Node, point: int = 0, upper: bool = True) -> Number:
    r"""The value with the variables of `point`, and with the upper or the lower signs of \pm.

    Unreadable if it has none: a division by zero, a float that overflows, a factorial of a fraction.
    """
    try:
        value = _evaluate(node, point, upper)
    except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
        raise Unreadable(f"no value: {error}") from None
    if isinstance(value, complex) and cmath.isnan(value):
        raise Unreadable("no value")
    return value


def close(first: Number, second: Number) -> bool:
    """Equal: as fractions if both are, else to TOLERANCE."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    one, two = _float(first), _float(second)
    return one == two or cmath.isclose(one, two, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _float(value: Number) -> complex:
    return value if isinstance(value, complex) else complex(float(value))


def _small(value: Number) -> Number:
    """`value`, as a float if it has grown too large."""
    if isinstance(value, Fraction) and value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        return _float(value)
    return value


def _evaluate(node: Node, point: int, upper: bool) -> Number:
    if node.op == "number":
        return node.value
    if node.op == "symbol":
        return _CONSTANTS[node.name] if node.name in _CONSTANTS else _variable(node.name, point)
    args = [_evaluate(arg, point, upper) for arg in node.args]
    if node.op in ("pm", "mp"):
        return _small(_OPERATIONS["+" if (node.op == "pm") == upper else "-"](*args))
    if node.op == "function":
        return _function(node.name, *args)
    return _small(_OPERATIONS[node.op](*args))


def _variable(name: str, point: int) -> Fraction:
    """A positive number of few digits that depends on the name and the point alone; negative beyond POINTS."""
    digest = hashlib.blake2b(f"{name}\x1f{point}".encode(), digest_size=2).digest()
    return Fraction(int.from_bytes(digest, "big") + 1, 2**14) * (1 if point in POINTS else -1)


def _arithmetic(operation: Callable[[Number, Number], Number]) -> Callable[[Number, Number], Number]:
    def apply(left: Number, right: Number) -> Number:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return operation(left, right)
        return operation(_float(left), _float(right))

    return apply


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = base.numerator.bit_length() + base.denominator.bit_length()
            if bits * abs(exponent) <= MAX_BITS:
                return base**exponent.numerator
        elif exponent.denominator < 256:
            return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    return _float(base) ** _float(exponent)


def _root(radicand: Number, index: Number) -> Number:
    """The principal root; the real one of an odd index; exact where it is rational."""
    if not isinstance(radicand, Fraction) or not isinstance(index, Fraction) or index.denominator != 1 or index <= 0:
        return _float(radicand) ** (1 / _float(index))
    degree = index.numerator
    if radicand < 0:
        return -_root(-radicand, index) if degree % 2 else _root(-radicand, index) * 1j ** (2 / degree)
    over, under = _whole_root(radicand.numerator, degree), _whole_root(radicand.denominator, degree)
    if over is not None and under is not None:
        return Fraction(over, under)
    return complex(float(radicand) ** (1 / degree))


def _whole_root(number: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(number)
    else:
        root = round(number ** (1 / degree)) if number.bit_length() < 1000 and degree < 256 else 0
    return root if root.bit_length() * degree <= 2 * MAX_BITS and root**degree == number else None


def _factorial(value: Number) -> Number:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise ValueError("a factorial of no small whole number")
    return Fraction(math.factorial(value.numerator))


def _binomial(top: Number, bottom: Number) -> Number:
    whole = [x.numerator for x in (top, bottom) if isinstance(x, Fraction) and x.denominator == 1 and 0 <= x <= 1000]
    if len(whole) < 2:
        raise ValueError("a binomial of no small whole numbers")
    return Fraction(math.comb(*whole))


def _function(name: str, x: Number, base: Number | None = None) -> Number:
    if name == "log":
        base = Fraction(10) if base is None else base
        return _logarithm(x, base)
    if base is not None:
        raise ValueError(f"{name} takes no index")
    return _FUNCTIONS[name](_float(x))


def _logarithm(x: Number, base: Number) -> Number:
    value = cmath.log(_float(x)) / cmath.log(_float(base))
    nearest = Fraction(round(value.real))
    exact = isinstance(x, Fraction) and isinstance(base, Fraction) and abs(nearest) < 1000
    return nearest if exact and _power(base, nearest) == x else value


_OPERATIONS: dict[str, Callable[..., Number]] = {
    "+": _arithmetic(lambda x, y: x + y),
    "-": _arithmetic(lambda x, y: x - y),
    "*": _arithmetic(lambda x, y: x * y),
    "/": _arithmetic(lambda x, y: x / y),
    "mixed": _arithmetic(lambda x, y: x + y),
    "neg": lambda x: -x,
    "abs": lambda x: abs(x) if isinstance(x, Fraction) else complex(abs(x)),
    "^": _power,
    "root": _root,
    "!": _factorial,
    "binom": _binomial,
}
