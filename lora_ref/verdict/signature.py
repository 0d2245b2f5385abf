"""What a mistake would look like in the outputs of a kernel, and how much of it is there.

Math:
    D = mutated − reference        r = actual − reference        both in units of σ
    β = ⟨r, F⟩ / ⟨D, F⟩,  pooled over all outputs that the mistake changes
    F = D min(1, κ²/D²)  elementwise, κ such that no element has more than an eighth of ⟨D, F⟩
    signal = ⟨D, F⟩ / ‖F‖, so that 1/signal is the standard deviation of β
    honest: the largest β that a kernel gets, or loses if it has the mistake, by one rounding alone:
    of its result, of the base or of a merged weight. Where an update is below half an ulp of what
    it is added to, that is near 1.
    near_base: the share of the elements that the mistake changes where the update, right and
    mutated, is below an ulp of what it is added to.
Limits:
    F is D unless few elements carry most of the signal, as where σ is tiny: these must not decide.
Source:
    The matched filter of signal detection: North 1943, reprinted in Proc. IEEE 51 (1963), 1016;
    bounded influence: Huber and Ronchetti, Robust Statistics, 2nd edition, chapter 7.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .honest import Honest
from .noise import Arrays, Noise, Noises
from .oracle import Mistake

SHARES = 8  # elements that the signal is spread over at least, if the mistake changes so many
LEAST_DIFFERING = 3
FORWARD, BACKWARD = ", in the forward alone", ", in the gradients alone"
UNCHANGED = 1e-6  # Σ D² of an output that float64's own roundings may leave
FIRST = 64  # elements that are rounded before the others


@dataclass(frozen=True, eq=False)
class Mutant:
    """A mistake's outputs, and what an honest kernel with the mistake would round them to."""

    mistake: Mistake
    outputs: Arrays
    noises: Noises
    honest: Honest | None

    @cached_property
    def errors(self) -> tuple[Arrays, ...]:
        """In σ."""
        return tuple(self.honest.errors(self.outputs)) if self.honest else ()

    @property
    def is_lost(self) -> bool:
        """Whether most elements of its outputs are left out because they are NaN or infinite."""
        noises = [self.noises[n] for n in self.outputs]
        return sum(noise.lost for noise in noises) > sum(noise.known for noise in noises)


@dataclass(frozen=True, eq=False)
class Signature:
    """D in units of σ, by output, with its size; `where` says in which outputs it is looked for."""

    mutant: Mutant
    D: Arrays
    where: str
    cap: float
    along: float
    signal: float

    @property
    def mistake(self) -> Mistake:
        return self.mutant.mistake

    @property
    def name(self) -> str:
        return f"{self.mistake.name}{self.where}"

    @property
    def changes(self) -> tuple[str, ...]:
        """The outputs that the mistake changes."""
        return tuple(n for n, d in self.D.items() if _dot(d, d) > UNCHANGED)

    def share(self, z: Arrays) -> float:
        """β of an error z, in units of σ; of the finite ones, as every z here is to be."""
        if self.along == 0:
            return 0.0
        return sum(_dot(z[n], f) for n, f in self._filters.items()) / self.along

    def remains(self, z: Arrays) -> float:
        """χ² of all outputs without the mistake, all of it."""
        left = (t - self.D[n] if n in self.D else t for n, t in z.items())
        with np.errstate(invalid="ignore", over="ignore"):
            return sum(_dot(t, t) for t in left)

    @cached_property
    def honest(self) -> float:
        return max([self._right, *(abs(self.share(z)) for z in self.mutant.errors)])

    def is_swamped(self, limit: float) -> bool:
        """Whether `honest` is beyond a limit; of most mistakes a simple bound says that it is not.

        |share| of an error z is at most Σ |F| |z| / ⟨D, F⟩.
        """
        if self.mutant.honest is None or self.along == 0 or self._right > limit:
            return self._right > limit
        reach = self.mutant.honest.reach
        most = sum(_dot(abs(f), reach[n]) for n, f in self._filters.items()) / self.along
        u = max(self.mutant.noises[n].grid.roundoff for n in self.D)
        return most + u > limit and self.honest > limit

    @cached_property
    def _right(self) -> float:
        errors = self.mutant.honest.right_errors if self.mutant.honest else ()
        return max((abs(self.share(z)) for z in errors), default=0.0)

    @cached_property
    def near_base(self) -> float:
        honest, near, count = self.mutant.honest, 0, 0
        for n, d in self.D.items():
            changes = d != 0
            count += int(np.count_nonzero(changes))
            if honest is not None:
                changes &= honest.near_base(n, self.mutant.outputs[n])
                near += int(np.count_nonzero(changes))
        return near / max(count, 1)

    @cached_property
    def differs(self) -> bool:
        """Whether the mistake changes enough elements by more than rounding the result hides."""
        noises, outputs, count = self.mutant.noises, self.mutant.outputs, 0
        for n in self.D:
            count += _differing(noises[n], outputs[n])
            if count >= LEAST_DIFFERING:
                return True
        return False

    @cached_property
    def _filters(self) -> Arrays:
        return {n: _capped(d, self.cap) for n, d in self.D.items()}


def signatures(
    mistake: Mistake, mutated: Arrays | None, noises: Noises, honest: Honest | None = None
) -> Iterable[Signature]:
    """One for all outputs; where a mistake changes both y and gradients, one for either alone."""
    if mutated is None:
        return
    mutant = Mutant(mistake, {n: mutated[n] for n in noises if n in mutated}, noises, honest)
    D = {n: noises[n].in_sigma(t - noises[n].reference) for n, t in mutant.outputs.items()}
    sizes = {n: (_dot(d, d), _most(d)) for n, d in D.items()}
    changed = {n: d for n, d in D.items() if sizes[n][0] > UNCHANGED}
    yield _signature(mutant, changed or D, "", sizes)
    if "y" in changed and len(changed) > 1:
        rest = {n: d for n, d in changed.items() if n != "y"}
        yield _signature(mutant, {"y": changed["y"]}, FORWARD, sizes)
        yield _signature(mutant, rest, BACKWARD, sizes)


def _signature(
    mutant: Mutant, D: Arrays, where: str, sizes: Mapping[str, tuple[float, float]]
) -> Signature:
    total = sum(sizes[n][0] for n in D)
    most = max((sizes[n][1] for n in D), default=0.0)
    if SHARES * most**2 <= total:  # nothing to cap: F is D
        return Signature(mutant, D, where, np.inf, total, total**0.5)
    cap = _cap(list(D.values()), total)
    filters = {n: _capped(d, cap) for n, d in D.items()}
    along = sum(_dot(d, filters[n]) for n, d in D.items())
    size = sum(_dot(f, f) for f in filters.values()) ** 0.5
    return Signature(mutant, D, where, cap, along, along / size if size else 0.0)


def _cap(D: list[np.ndarray], total: float) -> float:
    """κ: with the k largest at κ, SHARES κ² is the sum of all squares, k as few as can be."""
    flat = [d.ravel() for d in D]
    few = SHARES if sum(np.count_nonzero(d) for d in flat) > SHARES else 0
    largest = np.sort(np.concatenate([_largest(d, few) for d in flat]))[::-1][:few] ** 2
    for k, square in enumerate(largest):
        tail = max(total - float(largest[:k].sum()), 0.0) / (SHARES - k)
        if square <= tail:
            return tail**0.5
    return float(largest[-1]) ** 0.5 if len(largest) else float("inf")


def _largest(d: np.ndarray, count: int) -> np.ndarray:
    size = abs(d)
    return np.partition(size, -count)[-count:] if 0 < count < size.size else size


def _capped(d: np.ndarray, cap: float) -> np.ndarray:
    if not np.isfinite(cap):
        return d
    size = abs(d)
    return d * (cap / np.maximum(size, cap)) ** 2


def _differing(noise: Noise, mutated: np.ndarray) -> int:
    """Elements that differ from the reference after rounding, counted up to a few of them."""
    flat, right, weight = mutated.ravel(), noise.rounded.ravel(), noise.weight.ravel()
    count, start, stop = 0, 0, FIRST
    while start < flat.size and count < LEAST_DIFFERING:
        part = slice(start, stop)
        apart = noise.grid.round(flat[part] * 1.0) != right[part]
        count += int(np.count_nonzero(apart & (weight[part] > 0)))
        start, stop = stop, 8 * stop
    return count


def _most(d: np.ndarray) -> float:
    return max(float(d.max()), -float(d.min())) if d.size else 0.0


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b))
