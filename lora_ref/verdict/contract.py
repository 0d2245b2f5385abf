"""A precision contract: which roundings an honest implementation may make.

"Computed in bfloat16" says too little to judge a result by. A contract states what was claimed:
the dtypes of inputs, stored intermediates, accumulator and output; the order in which products
are summed; where a number factor may be applied; and which of several equal formulas may be used.
Fusing operations only leaves roundings out, so a contract for unfused code admits fused code.

Units:
    Precisions are those of `Grid`. The accumulation of K products has the depth d of its order,
    the largest number of additions that one product passes through, and the relative error
        γ = (1 + u)^(d + 1) − 1,
    u the accumulator's unit roundoff, twice that if it truncates.
Limits:
    A contract enumerates kernel tricks; a trick that it lacks looks like a bug. `explain` lists
    what is admitted, and `relax` changes a field.
Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1 (γ) and
    section 4.2 (order of summation). The orders are in `orders`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from .contract_fields import (
    HOME,
    Presets,
    check_at_least,
    check_flags,
    check_grid,
    check_type,
    constant_of,
)
from .explain import explained
from .grids import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, FLOAT16, FLOAT32, FLOAT64, TF32, Grid
from .orders import IN_BLOCKS, Order, Probable, check_order


@dataclass(frozen=True)
class Accumulator:
    """The grid that sums are kept on while they grow; some hardware truncates to it."""

    grid: Grid
    truncates: bool = False

    def __post_init__(self) -> None:
        check_grid("Accumulator", "grid", self.grid)
        check_flags("Accumulator", {"truncates": self.truncates})

    @property
    def roundoff(self) -> float:
        return self.grid.roundoff * (2 if self.truncates else 1)

    def __str__(self) -> str:
        return f"{self.grid.name}{', truncating' if self.truncates else ''}"


@dataclass(frozen=True)
class ScaleSites:
    """Where a number factor may be applied besides the place the formula gives it.

    Never upstream of a value that is stored before it. `held_on` is the grid of the factor itself.
    """

    operand: bool = True  # on either operand of the product that it multiplies
    result: bool = True  # on the stored result of that product
    held_on: Grid = FLOAT64

    def __post_init__(self) -> None:
        check_flags("ScaleSites", {"operand": self.operand, "result": self.result})
        check_grid("ScaleSites", "held_on", self.held_on)


@dataclass(frozen=True)
class Forms:
    """Which mathematically equal forms are admitted."""

    factored: bool = True  # y = x Wᵀ + s (x Aᵀ) Bᵀ
    merged: bool = False  # y = x W'ᵀ with W' stored; of W' itself, a merge in two halves
    alternatives: bool = True  # every formula of an `either`: DoRA's two, ⟨do, o⟩ for ⟨dp, p⟩
    recomputed: bool = True  # attention weights again from a stored logsumexp
    tiled: bool = True  # gradients of attention summed in tiles, stored in between
    onto: bool = True  # a product summed onto another term in the accumulator, as addmm does

    def __post_init__(self) -> None:
        check_flags("Forms", vars(self))
        if not (self.factored or self.merged):
            raise ValueError("Forms: factored or merged must be True, got False for both")


@dataclass(frozen=True)
class Contract:
    """What an implementation claims of its arithmetic.

    `inputs` is the grid of the inputs as given, `load` the one that a matrix product rounds its
    operands to first (None: it takes them as they are), `store` that of every intermediate that
    is written, `output` that of the results. `exp_ulps` bounds the error of exp, log, tanh and erf
    in ulps of the accumulator's grid.
    """

    name: str
    inputs: Grid
    store: Grid
    accumulate: Accumulator
    output: Grid
    load: Grid | None = None
    order: Order = IN_BLOCKS
    scale: ScaleSites = ScaleSites()
    forms: Forms = Forms()
    exp_ulps: float = 4.0

    def __post_init__(self) -> None:
        check_type("Contract", "name", self.name, (str,), "a name for messages")
        for field in ("inputs", "store", "output", "load"):
            grid = getattr(self, field)
            if grid is not None or field != "load":
                check_grid("Contract", field, grid)
        grid = self.accumulate if isinstance(self.accumulate, Grid) else FLOAT32
        summed = f"Accumulator({constant_of(grid)}) {HOME}"
        check_type("Contract", "accumulate", self.accumulate, (Accumulator,), summed)
        check_order("Contract", self.order)
        sites = f"ScaleSites(operand=..., result=...) {HOME}"
        check_type("Contract", "scale", self.scale, (ScaleSites,), sites)
        check_type("Contract", "forms", self.forms, (Forms,), f"Forms(merged=True) {HOME}")
        check_at_least("Contract", "exp_ulps", self.exp_ulps, 0.0, float)

    def gamma(self, terms: int) -> float:
        """γ of a sum of so many products."""
        return math.expm1((self.order.depth(terms) + 1) * math.log1p(self.accumulate.roundoff))

    def relax(self, **fields: Any) -> "Contract":
        """This contract with other fields, and a name that says so."""
        for name in fields:
            if name not in self.__dataclass_fields__ or name == "name":
                known = ", ".join(n for n in self.__dataclass_fields__ if n != "name")
                raise ValueError(f"Contract.relax: a field must be one of {known}, got {name}")
        changed = ", ".join(f"{name} {_shown(value)}" for name, value in fields.items())
        return replace(self, name=f"{self.name} with {changed}", **fields)

    def __repr__(self) -> str:
        """PRESETS['bfloat16'] for a preset; what is none has all its fields."""
        if PRESETS.get(self.name) == self:
            return f"PRESETS[{self.name!r}]"
        said = (f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"Contract({', '.join(said)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis spells a dataclass out otherwise

    def __str__(self) -> str:
        load = f", loaded as {self.load.name}" if self.load else ""
        return (
            f"{self.name} (inputs {self.inputs.name}{load}, intermediates {self.store.name}, "
            f"accumulator {self.accumulate}, output {self.output.name}; {self.order})"
        )

    def explain(self) -> str:
        """The roundings that this contract admits, one a line."""
        return explained(self)


def _shown(value: Any) -> str:
    return value.name if isinstance(value, Grid) else str(value)


def _uniform(name: str, grid: Grid, **fields: Any) -> Contract:
    """Everything on one grid, sums in float32."""
    return Contract(name, grid, grid, Accumulator(FLOAT32), grid, **fields)


FLOAT32_CONTRACT = _uniform("float32", FLOAT32)
TF32_CONTRACT = _uniform("tf32", FLOAT32, load=TF32)
BFLOAT16_CONTRACT = _uniform("bfloat16", BFLOAT16)
FLOAT16_CONTRACT = _uniform("float16", FLOAT16)
BFLOAT16_FLOAT32_INTERMEDIATES = Contract(
    "bfloat16, float32 intermediates", BFLOAT16, FLOAT32, Accumulator(FLOAT32), BFLOAT16
)
FLOAT16_FLOAT32_INTERMEDIATES = Contract(
    "float16, float32 intermediates", FLOAT16, FLOAT32, Accumulator(FLOAT32), FLOAT16
)
FLOAT8_E4M3_CONTRACT = _uniform("float8_e4m3 loads", BFLOAT16, load=FLOAT8_E4M3)
FLOAT8_E5M2_CONTRACT = _uniform("float8_e5m2 loads", BFLOAT16, load=FLOAT8_E5M2)


def merged(grid: Grid) -> Contract:
    """What a merge may do whose result is stored on a grid: W' = W + s B A.

    Everything may happen on that grid: the factors are loaded on it, the scale is a number of it,
    the product is summed, stored and scaled on it, and the update is added at once or in two
    halves, which leaves the room to load the base on the grid and to add at once. For float64
    the update may come from float32, as adapters are trained; nothing sums in 8 bits.
    """
    wide, narrow = grid.precision > FLOAT32.precision, grid.precision < BFLOAT16.precision
    return Contract(
        f"merged_{grid.name}",
        FLOAT64 if wide else FLOAT32,
        grid,
        Accumulator(FLOAT32 if wide else BFLOAT16 if narrow else grid),
        grid,
        load=grid,
        order=Probable(),
        scale=ScaleSites(held_on=FLOAT32 if wide else grid),
        forms=Forms(merged=True, onto=False),
    )


MERGED_FLOAT32 = merged(FLOAT32)
MERGED_BFLOAT16 = merged(BFLOAT16)
MERGED_FLOAT16 = merged(FLOAT16)

PRESETS: dict[str, Contract] = Presets(
    (contract.name, contract)
    for contract in (
        FLOAT32_CONTRACT,
        TF32_CONTRACT,
        BFLOAT16_CONTRACT,
        BFLOAT16_FLOAT32_INTERMEDIATES,
        FLOAT16_CONTRACT,
        FLOAT16_FLOAT32_INTERMEDIATES,
        FLOAT8_E4M3_CONTRACT,
        FLOAT8_E5M2_CONTRACT,
        MERGED_FLOAT32,
        MERGED_BFLOAT16,
        MERGED_FLOAT16,
    )
)
