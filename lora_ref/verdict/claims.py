"""Checks before judging: names, shapes and grids of what was given against what was claimed.

A wrong shape or a wrong contract is no bug of the arithmetic: it is refused, with the remedy,
before any bound is computed.

Errors:
    ValueError for unknown, missing or misshapen outputs (`check_outputs`), for an input that is
    not on the contract's grid (`check_on_grid`), and for an output that is not what the contract
    claims (`check_output_grid`). TypeError for what is no array, no oracle or no contract
    (`check_claim`).
"""

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np

from .contract import PRESETS, Contract
from .contract_fields import HOME, check_type, constant_of, got
from .grids import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Grid
from .incoming import Received, received
from .oracle import Oracle

Shape = tuple[int, ...]
_USUAL = (BFLOAT16, FLOAT16, FLOAT32, FLOAT64)  # an output's grid is searched for in this order


def check_claim(owner: str, oracle: Any, contract: Any) -> None:
    """Refuses what is no oracle or no contract, as where the two are exchanged."""
    if isinstance(oracle, Contract) or isinstance(contract, Oracle):
        raise TypeError(
            f"{owner}: oracle must come before contract, got {got(oracle)} and {got(contract)} in "
            f"their places"
        )
    check_type(owner, "oracle", oracle, (Oracle,), f"lora_linear(...) or oracle_of(...) {HOME}")
    named = contract in PRESETS if isinstance(contract, str) else False
    remedy = f"PRESETS[{contract!r}]" if named else "BFLOAT16_CONTRACT or another of PRESETS"
    check_type(owner, "contract", contract, (Contract,), f"{remedy} {HOME}")


def check_outputs(
    actual: Any,
    expected_shapes: Mapping[str, Shape],
    *,
    source: str = "the float64 reference",
    left_out: Collection[str] = (),
) -> dict[str, Received]:
    """The given outputs, in the order of `expected_shapes`; a bare array stands for {"y": array}.

    `source` says in messages where the expected shapes come from. Every expected output must be
    there, except those that are `left_out` on purpose.
    """
    if isinstance(actual, tuple | list):
        raise TypeError(
            f"check_outputs: outputs must be a mapping of names to arrays, got a "
            f"{type(actual).__name__}; give {{{', '.join(f'{n!r}: ...' for n in expected_shapes)}}}"
        )
    given = dict(actual) if isinstance(actual, Mapping) else {"y": actual}
    given = {n: t for n, t in given.items() if t is not None or n not in left_out}
    _check_names(given, expected_shapes, left_out)
    found = {}
    for name, shape in expected_shapes.items():
        if name in given:
            found[name] = received(given[name], name)
            _check_shape(name, tuple(found[name].values.shape), tuple(shape), source)
    return found


def _check_names(
    given: Mapping[str, Any], expected: Mapping[str, Shape], left_out: Collection[str]
) -> None:
    missing = [name for name in expected if name not in given and name not in left_out]
    unknown = [name for name in (*given, *left_out) if name not in expected]
    absent = [name for name, value in given.items() if name in expected and value is None]
    known = f"the outputs are {', '.join(expected)}"
    both = [name for name in given if name in left_out]
    if both:
        raise ValueError(
            f"check_outputs: {', '.join(both)} must be given or left out, got both: "
            f"what is in left_out is not judged"
        )
    if not given:
        raise ValueError(f"check_outputs: at least one output must be given, got none; {known}")
    if unknown:
        texts = [f"{name!r}{_meant(str(name), missing, expected)}" for name in unknown]
        verb = "is no output" if len(unknown) == 1 else "are no outputs"
        raise ValueError(f"check_outputs: {', '.join(texts)} {verb} of this oracle; {known}")
    if absent:
        raise ValueError(
            f"check_outputs: {', '.join(absent)} must be an array, got None: no such gradient was "
            f"computed (is requires_grad on, and is the graph whole?); or put it in left_out"
        )
    if missing:
        raise ValueError(
            f"check_outputs: {', '.join(missing)} must be given, got only {', '.join(given)}; "
            f"{known}; name in left_out what is not to be judged"
        )


def _meant(name: str, missing: list[str], expected: Mapping[str, Shape]) -> str:
    """The output that an unknown name probably stands for, or why there is none."""
    if name == "dW":
        return " (W is frozen and has no gradient here: leave it out)"
    close = get_close_matches(name, expected, n=1) or [
        known for known in expected if known.lower() == name.lower()
    ]
    guess = close[0] if close else missing[0] if len(missing) == 1 else None
    return f" (did you mean {guess!r}?)" if guess else ""


def _check_shape(name: str, got: Shape, expected: Shape, source: str) -> None:
    if got != expected:
        raise ValueError(
            f"check_outputs: {name} must have the shape {expected} of {source}, "
            f"got {got}{_shape_hint(name, got, expected)}"
        )


def _shape_hint(name: str, got: Shape, expected: Shape) -> str:
    """What the difference looks like, as a clause; empty if like nothing in particular."""
    if len(got) >= 2 and (*got[:-2], got[-1], got[-2]) == expected:
        return f"; its transpose fits: give {name}.swapaxes(-1, -2) if that is the convention"
    if (1, *got) == expected or got == (1, *expected):
        longer = name if len(got) > len(expected) else "the expected shape"
        return f"; only a leading axis of size 1 differs, which {longer} has"
    if [n for n in got if n != 1] == [n for n in expected if n != 1]:
        return "; only axes of size 1 differ"
    if sorted(got) == sorted(expected):
        return "; the same axes in another order"
    if math.prod(got) == math.prod(expected):
        return "; as many elements: a reshape apart"
    return ""


def check_on_grid(name: str, values: np.ndarray, grid: Grid) -> None:
    """Refuses the input `values` (float64) unless all of it lies on the contract's `grid`.

    >>> check_on_grid("x", np.array([1.0, 0.1]), BFLOAT16)
    Traceback (most recent call last):
    ...
    ValueError: check_on_grid: x must hold numbers of bfloat16, the contract's grid of inputs; 1 \
of 2 elements is not, the first at (1,): 0.1, between 0.099609375 and 0.10009765625; give the \
numbers after the cast to bfloat16, as the kernel gets them, or a contract whose inputs are finer
    """
    off = _off_grid(values, grid)
    if off:
        raise ValueError(
            f"check_on_grid: {name} must hold numbers of {grid.name}, the contract's grid of "
            f"inputs; {off}; give the numbers after the cast to {grid.name}, as the kernel gets "
            f"them, or a contract whose inputs are finer"
        )


def check_output_grid(name: str, given: Received, contract: Contract) -> tuple[str, ...]:
    """Refuses an output that the contract's output dtype does not hold; notes for a report.

    A finer array all of whose numbers are on the claimed grid is an emulated result: fine.
    """
    claimed = contract.output
    if given.grid == claimed:
        return ()
    start = f"check_output_grid: {name} must hold {claimed.name}, the output of {contract.name}"
    if not _contains(given.grid, claimed):
        raise ValueError(
            f"{start}, got an array of {given.grid.name}, which cannot hold it"
            f"{_fitting(given.grid, contract)}"
        )
    off = _off_grid(given.values, claimed)
    if off:
        finest = next((g for g in _USUAL if g.holds(_flat(given.values)).all()), given.grid)
        raise ValueError(
            f"{start}, got an array of {given.grid.name}; {off}{_fitting(finest, contract)}"
        )
    return (f"{name} is held in {given.grid.name}; its numbers are all of {claimed.name}",)


def _contains(wide: Grid, narrow: Grid) -> bool:
    """Whether every finite number of `narrow` is one of `wide`."""
    return (
        wide.precision >= narrow.precision
        and wide.smallest <= narrow.smallest
        and wide.largest >= narrow.largest
    )


def _fitting(grid: Grid, contract: Contract) -> str:
    """Which contracts have their outputs on this grid, as a clause."""
    presets = [repr(name) for name, preset in PRESETS.items() if preset.output == grid]
    listed = f"a preset with such outputs ({', '.join(presets)}) or " if presets else ""
    return f"; choose {listed}{contract.name!r} with .relax(output={constant_of(grid)})"


def _off_grid(values: np.ndarray, grid: Grid) -> str:
    """How many elements are off the grid, and the first between its neighbours; empty if none."""
    off = ~grid.holds(_flat(values))
    count = int(np.count_nonzero(off))
    if count == 0:
        return ""
    first = int(np.argmax(off))
    v = float(_flat(values)[first])
    place = tuple(int(i) for i in np.unravel_index(first, values.shape))
    verb = "is" if count == 1 else "are"
    return (
        f"{count:,} of {values.size:,} elements {verb} not, the first at {place}: {v!r}, "
        f"{_neighbours(v, grid)}"
    )


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1)


def _neighbours(v: float, grid: Grid) -> str:
    if abs(v) > grid.largest:
        return f"beyond the largest, {math.copysign(grid.largest, v)!r}"
    ulp = float(grid.ulp(np.array([v]))[0])
    low = math.floor(v / ulp) * ulp
    return f"between {low!r} and {low + ulp!r}"
