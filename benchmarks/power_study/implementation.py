"""What an implementation is: an honest low-precision way to compute a case, and what it claims.

`run` takes a case to its outputs by name, as NumPy arrays of the case's dtype. It is deterministic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lora_ref.verdict.contract import (
    BFLOAT16_CONTRACT,
    BFLOAT16_FLOAT32_INTERMEDIATES,
    FLOAT16_CONTRACT,
    FLOAT16_FLOAT32_INTERMEDIATES,
    FLOAT32_CONTRACT,
    Accumulator,
    Contract,
    Forms,
    ScaleSites,
)

from .cases import DTYPES, Case
from .dtypes import GRIDS

Outputs = dict[str, np.ndarray]
Run = Callable[[Case], Outputs]

_STORED = {
    "bfloat16": BFLOAT16_CONTRACT,
    "float16": FLOAT16_CONTRACT,
    "float32": FLOAT32_CONTRACT,
}
_INTERMEDIATES_IN_FLOAT32 = {
    "bfloat16": BFLOAT16_FLOAT32_INTERMEDIATES,
    "float16": FLOAT16_FLOAT32_INTERMEDIATES,
    "float32": FLOAT32_CONTRACT,
}


def plain(dtype: str) -> Contract:
    """Intermediates in the dtype, sums in float32: what eager code in that dtype claims.

    A number factor is held in float32, as PyTorch multiplies by a Python number.
    """
    return _factor_on(_STORED[dtype], "float32")


def wide(dtype: str) -> Contract:
    """Intermediates in float32 as well: only the outputs are rounded to the dtype."""
    return _factor_on(_INTERMEDIATES_IN_FLOAT32[dtype], "float32")


def narrow_scale(dtype: str) -> Contract:
    """As `plain`, but the factor is a number of the dtype, as JAX holds a Python number."""
    return _factor_on(_STORED[dtype], dtype)


def narrow_sums(dtype: str) -> Contract:
    """As `narrow_scale`, and sums in the dtype too: XLA's CPU code adds up a row sum, such as the
    gradient of a bias, in the dtype of its terms."""
    contract = narrow_scale(dtype)
    grid = GRIDS[dtype]
    name = f"{contract.name}, sums in {dtype}"
    return replace(contract, name=name, accumulate=Accumulator(grid))


def merged_too(dtype: str) -> Contract:
    """As `plain`, and W' may be stored in the dtype and then be multiplied by."""
    contract = plain(dtype)
    return replace(contract, name=f"{contract.name}, or merged", forms=Forms(merged=True))


def _factor_on(contract: Contract, dtype: str) -> Contract:
    name = f"{contract.name}, number factors in {dtype}"
    return replace(contract, name=name, scale=ScaleSites(held_on=GRIDS[dtype]))


@dataclass(frozen=True)
class Implementation:
    """One way to compute the kernels of a kind, under the contract of that name.

    `every` spares the expensive ones: it runs on one seed in so many.
    """

    name: str
    kind: str
    run: Run
    contract: Callable[[str], Contract] = plain
    dtypes: tuple[str, ...] = DTYPES
    applies: Callable[[Case], bool] = lambda case: True
    every: int = 1

    def takes(self, case: Case) -> bool:
        """Whether this implementation runs on that case."""
        return (
            case.kind == self.kind
            and case.dtype in self.dtypes
            and case.seed % self.every == 0
            and self.applies(case)
        )


def power_of_two(s: float) -> bool:
    """Whether multiplying by s is exact."""
    return bool(np.frexp(s)[0] == 0.5)


def registry(
    kind: str, **defaults: object
) -> tuple[list[Implementation], Callable[..., Callable[[Run], Run]]]:
    """A list and the decorator that puts a function into it: ``@add("name", every=4)``."""
    found: list[Implementation] = []

    def add(name: str, **fields: object) -> Callable[[Run], Run]:
        def decorate(run: Run) -> Run:
            found.append(Implementation(name, kind, run, **{**defaults, **fields}))
            return run

        return decorate

    return found, add


def named(names: Mapping[str, object] | tuple[str, ...], values: tuple[object, ...]) -> dict:
    """Outputs by their names."""
    return dict(zip(names, values, strict=True))
