"""What a mutant is: a correct implementation with one mistake, in the same low precision.

A mutant is planted into a *sibling*, any correct implementation of the kernel: it runs it on
mutated inputs, or mutates what it returns, so its other roundings are those of honest code. What
it changes is found by comparing bits with the sibling; where it changes nothing it does not count.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cases import Case
from .dtypes import exact, stored
from .implementation import Implementation, Outputs, Run

Make = Callable[[Case, Run], Outputs | None]
LINEAR = ("lora_linear", "lora_merged", "dora_linear")
LAYERS = ("lora_linear", "dora_linear")


class NotApplicable(Exception):
    """This mistake cannot be made with this case, or by this sibling."""


@dataclass(frozen=True)
class Mutant:
    """One mistake. `names` are the catalogue's for it; without one, no diagnosis is right.

    `akin` are names that say something true, though not all of it. `held_out`: nobody who wrote
    the catalogue or the bounds has had it in mind.
    """

    name: str
    kinds: tuple[str, ...]
    gross: bool
    make: Make
    names: tuple[str, ...] = ()
    akin: tuple[str, ...] = ()
    held_out: bool = False

    def planted(self, case: Case, sibling: Implementation) -> Outputs | None:
        """The mutant's outputs, None where it cannot be made."""

        def run(changed: Case) -> Outputs:
            if not sibling.applies(changed):
                raise NotApplicable
            return sibling.run(changed)

        if case.kind not in self.kinds or not sibling.takes(case):
            return None
        try:
            found = self.make(case, run)
        except NotApplicable:
            return None
        if found is None:
            return None
        right = sibling.run(case)
        return {name: found.get(name, right[name]) for name in right}


def changes(mutated: Outputs, right: Outputs) -> tuple[str, ...]:
    """The outputs that differ in any bit."""
    return tuple(n for n in right if mutated[n].tobytes() != right[n].tobytes())


def registry() -> tuple[list[Mutant], Callable[..., Callable[[Make], Make]], Callable]:
    """A list, and the decorators ``@gross("name", kinds, names=...)`` and ``@subtle(...)``."""
    found: list[Mutant] = []

    def adder(is_gross: bool):
        def add(name: str, kinds: tuple[str, ...] | str, **fields: object):
            several = (kinds,) if isinstance(kinds, str) else kinds

            def decorate(make: Make) -> Make:
                found.append(Mutant(name, several, is_gross, make, **fields))
                return make

            return decorate

        return add

    return found, adder(True), adder(False)


def only(outputs: Outputs, *names: str) -> Outputs:
    """Some of the outputs; the others stay as they should be."""
    return {name: t for name, t in outputs.items() if name in names}


def through(outputs: Outputs, case: Case, **maps: Callable[[np.ndarray], np.ndarray]) -> Outputs:
    """Some outputs through a map of their float64 values, rounded again."""
    return outputs | {
        n: stored(f(exact(outputs[n])), case.dtype) for n, f in maps.items() if n in outputs
    }


def with_scale(case: Case, s: float) -> Case:
    """The case with another LoRA scale."""
    return case.changed({"alpha": s * int(case.static["rank"])})


def without(t: np.ndarray, axis: int, index: int | slice | np.ndarray = -1) -> np.ndarray:
    """`t` with some lines along an axis at zero."""
    t = t.copy()
    np.moveaxis(t, axis, 0)[index] = 0
    return t


def flat_rows(t: np.ndarray) -> np.ndarray:
    """(*, n) as a fresh matrix (N, n)."""
    return t.reshape(-1, t.shape[-1]).copy()


def on_rows(change: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], np.ndarray]:
    """A map of outputs that changes the matrix of their rows in place."""

    def mapped(t: np.ndarray) -> np.ndarray:
        matrix = flat_rows(t)
        change(matrix)
        return matrix.reshape(t.shape)

    return mapped


def swapped_in(right: np.ndarray, other: np.ndarray, index: int) -> np.ndarray:
    """`right` with one row of `other`."""
    rows = flat_rows(right)
    rows[index] = flat_rows(other)[index]
    return rows.reshape(right.shape)
