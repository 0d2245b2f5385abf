"""Queries and keys whose attention is one-hot, exactly: addresses, and who answers to whom.

Math:
    Key j has an address of D digits to a base β, written one-hot in D β columns of k. A query for
    key t weighs the digit δ at place i by w_i(δ): 2^D, …, 4, 2 at the digits of t, and 0 elsewhere;
    distinct keys share distinct digits with t, so no other key has as much. If t is masked, the
    answer is due from the allowed key f that comes nearest; the digits of f that are not t's weigh
    1, which makes f the one best of the allowed keys and leaves it below t. If t is allowed, f = t.
    The query holds g (w_i(δ) − w_i(f_i)). Its every product with k_f is 0, so that the score of f
    is 0 whatever is scaled and rounded first; all other allowed scores are at most −g, and a
    masked key that leaks in has more than 0.
    With c g >= 768, exp(−c g) is 0 in float64 too: p is one-hot whatever the formula, exp2 and a
    stored logsumexp included, since exp(0 − 0) = 1 in all of them.
Limits:
    float16 cannot hold such scores; there c g >= 128, whose exp is 0 in float32, and the values
    are never 0, so that 2^-184 more or less in float64 is rounded away.
"""

from dataclasses import dataclass

import numpy as np

from ..grids import Grid

UNDERFLOW = 768.0  # exp(-768) is 0 in float64
UNDERFLOW_FLOAT32 = 128.0  # exp(-128) is 0 in float32


@dataclass(frozen=True)
class Code:
    """How addresses are written: D digits to the base β, in units of g."""

    digits: int
    base: int
    unit: float

    @property
    def largest(self) -> float:
        """A bound on any score, in absolute value."""
        return self.unit * (2.0 ** (self.digits + 1) + self.digits)


def code_for(keys: int, head_dim: int, scale: float, grid: Grid) -> Code:
    """The code with the fewest digits that has an address for every key.

    Errors:
        ValueError if head_dim is too small for so many keys, or the grid for the scores.
    """
    for digits in range(1, head_dim):
        base = (head_dim - 1) // digits
        if base < 2 and keys > 1:
            break
        if base**digits >= keys:
            return Code(digits, base, _unit(digits, scale, grid))
    raise ValueError(
        f"code_for: head_dim = {head_dim} has no addresses for {keys} keys; give fewer keys"
    )


def _unit(digits: int, scale: float, grid: Grid) -> float:
    """A power of two g with c g >= 768 if the grid's range allows it, and at least 128."""
    for floor in (UNDERFLOW, UNDERFLOW_FLOAT32):
        unit = 2.0 ** np.ceil(np.log2(floor / scale))
        code = Code(digits, 0, float(unit))
        if 2 * code.largest <= grid.largest and digits + 2 <= grid.precision:
            return code.unit
    raise ValueError(
        f"code_for: at scale = {scale:g} the scores would reach {2 * code.largest:g}, which "
        f"{grid.name} does not hold; give a larger scale or fewer keys"
    )


@dataclass(frozen=True, eq=False)
class KeySet:
    """The addresses of the keys of one head: digits (S, D), and where the columns lie.

    The last of the columns is −g in every query and 0 in every key: −1 there makes a decoy.
    """

    code: Code
    address: np.ndarray
    columns: np.ndarray

    @staticmethod
    def draw(code: Code, keys: int, head_dim: int, rng: np.random.Generator) -> "KeySet":
        """Random distinct addresses, in random columns."""
        cells = rng.permutation(code.base**code.digits)[:keys]
        powers = code.base ** np.arange(code.digits)
        return KeySet(code, cells[:, None] // powers % code.base, rng.permutation(head_dim))

    def keys(self) -> np.ndarray:
        """k (S, d)."""
        k = np.zeros((len(self.address), len(self.columns)))
        k[np.arange(len(k))[:, None], self._places(self.address)] = 1.0
        return k

    def queries(self, targets: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """q (T, d) that ask for the keys `targets` (T,) under a mask (T, S), and who answers (T,).

        A query that may attend to nothing has the answer −1.
        """
        wanted = self.address[targets]  # (T, D)
        weights = 2.0 ** np.arange(self.code.digits, 0, -1)
        shared = (wanted[:, None] == self.address) @ weights  # (T, S)
        nearest = np.argmax(np.where(allowed, shared, -1.0), axis=1)
        found = self.address[nearest]
        digit = np.arange(self.code.base)
        w = weights[:, None] * (wanted[..., None] == digit)  # (T, D, β)
        w += (found[..., None] == digit) & (found != wanted)[..., None]
        w -= np.take_along_axis(w, found[..., None], axis=-1)
        q = np.zeros((len(targets), len(self.columns)))
        q[:, self.columns[: w[0].size]] = w.reshape(len(w), -1)
        q[:, self.columns[-1]] = -1.0
        return self.code.unit * q, np.where(allowed.any(axis=1), nearest, -1)

    def _places(self, digits: np.ndarray) -> np.ndarray:
        return self.columns[digits + self.code.base * np.arange(self.code.digits)]


def one_best(scores: np.ndarray, allowed: np.ndarray, answers: np.ndarray, unit: float) -> bool:
    """Whether 0 is the score of every answer and any other allowed score at least a unit less."""
    live = answers >= 0
    own = np.zeros(allowed.shape, dtype=bool)
    own[np.flatnonzero(live), answers[live]] = True
    rest = np.where(allowed & ~own, scores, -np.inf)
    return bool(np.all(scores[own] == 0) and np.all(rest[live] <= -unit))
