"""The error-bounded reading: what every output of a kernel may be under a contract."""

from dataclasses import dataclass

import numpy as np

from ...trees import leaves
from ..contract import Contract
from ..oracle import Oracle, is_real
from .arithmetic import Arithmetic, moderate
from .bounded import Bounded, leaf
from .enclosure import VARIANCE_UNIT, Enclosure
from .namespace import Namespace

__all__ = ["Bounded", "Bounds", "Enclosure", "Namespace", "bounds", "bounds_of"]

_LEAST_VARIANCE = 2.0**-100 * VARIANCE_UNIT  # of less, float32 may have lost terms to underflow
_LOST = 1 + 2.0**-14  # what the float32 arithmetic of errors may have lost on its way


@dataclass(frozen=True, eq=False)
class Bounds:
    """Of one output: its value v, the bound e of |actual − v|, and the variance s.

    e is inf where nothing can be said; s is NaN where it is not known: not asked for, or
    lost to underflow.
    """

    v: np.ndarray
    e: np.ndarray
    s: np.ndarray


def bounds(oracle: Oracle, contract: Contract, *, variance: bool = True) -> dict[str, Bounds]:
    """Name of an output -> its bounds, for whatever the contract admits."""
    static = {n: t for n, t in oracle.static.items() if n != "mask"}  # −1e9 is no size there
    given = (dict(oracle.inputs), static, oracle.cotangent)
    arrays = [a for _, a in leaves(given) if is_real(a)]
    small = moderate(arrays) and contract.store.precision < 53
    arithmetic = Arithmetic(contract, np.dtype(np.float32 if small else np.float64), variance)
    forms = contract.forms
    kernels = [oracle.kernel] if forms.factored or oracle.merged is None else []
    kernels += [oracle.merged] if forms.merged and oracle.merged is not None else []
    found: dict[str, Bounds] = {}
    with np.errstate(invalid="ignore", over="ignore"):
        for kernel in kernels:
            xp = Namespace(arithmetic)
            outputs = oracle.outputs(lambda a, xp=xp: leaf(xp, a), kernel)  # type: ignore[misc]
            for name, output in outputs.items():
                one = bounds_of(output, contract)
                found[name] = one if name not in found else _either(found[name], one)
    return found


def bounds_of(output: Bounded, contract: Contract) -> Bounds:
    """What a bounded array may be, once it is written as an output."""
    arithmetic, stored = output.xp.arithmetic, output.stored()
    if contract.output != contract.store:
        stored = arithmetic.rounded(stored, contract.output)
    v, zeros = stored.v, np.zeros(stored.shape)
    e = zeros if stored.e is None else stored.e * np.float64(_LOST)
    s = np.broadcast_to(np.nan, v.shape)
    if arithmetic.variance:
        s = zeros if stored.s is None else np.asarray(stored.s, dtype=np.float64) * VARIANCE_UNIT
        if arithmetic.dtype == np.float32:
            s = np.where((s < _LEAST_VARIANCE) & (e > 0), np.nan, s)
    if not (np.isfinite(np.sum(e)) and np.isfinite(np.sum(v))):
        e = np.where(np.isnan(e) | ~np.isfinite(v), np.inf, e)
    return Bounds(v, np.asarray(e), s)


def _either(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(a.v, np.maximum(a.e, b.e), np.maximum(a.s, b.s))
