"""What a mistake would look like in the outputs of a kernel, and how much of it is there.

Math:
    D = mutated − reference        r = actual − reference        both in units of σ
    β = ⟨r, F⟩ / ⟨D, F⟩,  pooled over all outputs that the mistake changes
    F = D min(1, κ²/D²)  elementwise, κ such that no element has more than an eighth of ⟨D, F⟩
    signal = ⟨D, F⟩ / ‖F‖, so that 1/signal is the standard deviation of β
    honest: the largest β that a kernel gets, or loses if it has the mistake, by one rounding alone:
    of its result, of the base or of a merged weight. Where an update is below half an ulp of what
    it is added to, that is near 1.
Limits:
    F is D unless few elements carry most of the signal, as where σ is tiny: these must not decide.
Source:
    The matched filter of signal detection: North 1943, reprinted in Proc. IEEE 51 (1963), 1016;
    bounded influence: Huber and Ronchetti, Robust Statistics, 2nd edition, chapter 7.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .honest import Honest
from .noise import Arrays, Noise, Noises
from .oracle import Mistake

SHARES = 8  # elements that the signal is spread over at least, if the mistake changes so many


@dataclass(frozen=True, eq=False)
class Signature:
    """D in units of σ, by output, with its size; `where` says in which outputs it is looked for."""

    mistake: Mistake
    D: Arrays
    where: str
    cap: float
    signal: float
    along: float
    differing: int
    honest: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.mistake.name}{self.where}"

    def share(self, z: Arrays) -> float:
        """β of an error z, in units of σ."""
        if self.along == 0:
            return 0.0
        parts = (_dot(np.where(np.isfinite(z[n]), z[n], 0.0), self._filter(n)) for n in self.D)
        return sum(parts) / self.along

    def remains(self, z: Arrays) -> float:
        """χ² of all outputs without the mistake, all of it."""
        left = (t - self.D[n] if n in self.D else t for n, t in z.items())
        with np.errstate(invalid="ignore", over="ignore"):
            return sum(_dot(t, t) for t in left)

    def _filter(self, name: str) -> np.ndarray:
        return _capped(self.D[name], self.cap)


def signatures(
    mistake: Mistake, mutated: Arrays | None, noises: Noises, honest: Honest | None = None
) -> Iterable[Signature]:
    """One for all outputs; where a mistake changes both y and gradients, one for either alone."""
    if mutated is None:
        return
    D = {n: t.in_sigma(mutated[n] - t.reference) for n, t in noises.items() if n in mutated}
    changed = {n: d for n, d in D.items() if d.any()}
    scopes = [("", changed or D)]
    if "y" in changed and len(changed) > 1:
        rest = {n: d for n, d in changed.items() if n != "y"}
        scopes += [(FORWARD, {"y": changed["y"]}), (BACKWARD, rest)]
    differing = {n: _differing(noises[n], mutated[n]) for n in changed}
    mutants = honest.errors({n: mutated[n] for n in D}) if honest else ()
    errors = [*(honest.right_errors if honest else ()), *mutants]
    for where, chosen in scopes:
        if chosen:
            count = sum(differing.get(n, 0) for n in chosen)
            yield _signature(mistake, chosen, where, count, errors)


FORWARD, BACKWARD = ", in the forward alone", ", in the gradients alone"


def _signature(
    mistake: Mistake, D: Arrays, where: str, differing: int, honest: Iterable[Arrays]
) -> Signature:
    cap = _cap(list(D.values()))
    filters = {n: _capped(d, cap) for n, d in D.items()}
    along = sum(_dot(d, filters[n]) for n, d in D.items())
    size = sum(_dot(f, f) for f in filters.values()) ** 0.5
    signal = along / size if size else 0.0
    lean = (sum(_dot(z[n], f) for n, f in filters.items()) / along for z in honest if along)
    worst = max((abs(t) for t in lean), default=0.0)
    return Signature(mistake, D, where, cap, signal, along, differing, worst)


def _cap(D: list[np.ndarray]) -> float:
    """κ: with the k largest at κ, SHARES κ² is the sum of all squares, k as few as can be."""
    flat = [d.ravel() for d in D]
    total = sum(_dot(d, d) for d in flat)
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
    size = abs(d)
    if not np.isfinite(cap) or not (size > cap).any():
        return d
    return d * (cap / np.maximum(size, cap)) ** 2


def _differing(noise: Noise, mutated: np.ndarray) -> int:
    """The number of elements that the mistake changes by more than rounding the result hides."""
    apart = noise.grid.round(mutated * 1.0) != noise.grid.round(noise.reference * 1.0)
    return int(np.count_nonzero(apart & (noise.weight > 0)))


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a, b))
