"""How strongly each path of a LoRA layer is in the outputs: 1 ± error for a right kernel.

A scale that is 1 % off is invisible element by element at bfloat16, but not to all elements
together.

Math:
    r = Σ_p (g_p − 1) D_p + noise        D_p = ∂ outputs / ∂ log of path p, all in units of σ
    the paths: base W, update s, bias b. g by least squares, pooled over all outputs.
    error: of the clustered ("sandwich") covariance, the largest of clusters by row and by column,
    because a rounded intermediate moves a whole row or column; times the root mean square residual
    where that is above 1.
Limits:
    A tensor of few rows and columns tells little of shared roundings: below 4 of either the
    unit roundoff of the output's grid is added to the error, by that tensor's share.
    Where honest rounding alone moves a gain (an update swamped by the grid), its error is inf.
Source:
    Cameron and Miller, A practitioner's guide to cluster-robust inference, 2015, section II.
"""

from collections.abc import Mapping

import numpy as np

from .findings import Gain
from .mistakes.mutation import changed, reference, value_of
from .noise import Arrays, Noise
from .oracle import Oracle
from .signature import UNCHANGED
from .view import View

FEW_CLUSTERS = 4
Directions = dict[str, dict[str, np.ndarray]]


def path_gains(view: View) -> tuple[Gain, ...]:
    """The gains of the base, the update and the bias; nothing for what is no LoRA layer."""
    noises = view.noises
    paths = {p: d for p, d in _directions(view.oracle, noises).items() if _size(d)}
    if not paths:
        return ()
    z = {n: np.where(np.isfinite(noise.z), noise.z, 0.0) for n, noise in noises.items()}
    inverse = np.linalg.pinv(_gram(paths))
    off = inverse @ _along(paths, z)
    leans = [inverse @ _along(paths, h) for h in view.honest.right_errors]
    lean = np.max(np.abs(leans), axis=0)
    error = _errors(paths, z, off, inverse, noises)
    spread = np.sqrt(np.maximum(np.diag(inverse), 0.0))  # a pseudoinverse may miss 0 from below
    swamped = lean > np.maximum(0.05, 3 * spread)
    error = np.where(swamped, np.inf, error)
    return tuple(
        Gain(p, 1 + float(o), float(e), tuple(n for n, t in d.items() if _size({n: t}) > UNCHANGED))
        for (p, d), o, e in zip(paths.items(), off, error, strict=True)
    )


def _directions(oracle: Oracle, noises: Mapping[str, Noise]) -> Directions:
    """What a path of twice the strength would add: outputs are linear in W, s and b."""
    if any(value_of(oracle, n) is None for n in ("A", "B", "W")):
        return {}
    if value_of(oracle, "m") is not None:
        return {}
    twice = {"base": "W", "update": "scale", "bias": "b"}
    right, found = reference(oracle), {}
    for path, name in twice.items():
        value = value_of(oracle, name)
        if value is not None:
            more = changed(oracle, **{name: 2 * value})
            found[path] = {n: t.in_sigma(more[n] - right[n]) for n, t in noises.items()}
    return found


def _size(d: Arrays) -> float:
    return sum(float(np.vdot(t, t)) for t in d.values())


def _gram(paths: Directions) -> np.ndarray:
    return np.array([_along(paths, d) for d in paths.values()])


def _along(paths: Directions, z: Arrays) -> np.ndarray:
    return np.array([sum(float(np.vdot(t, z[n])) for n, t in d.items()) for d in paths.values()])


def _errors(
    paths: Directions, z: Arrays, off: np.ndarray, inverse: np.ndarray, noises: Mapping[str, Noise]
) -> np.ndarray:
    """The standard deviation of each gain."""
    residual, few = {}, np.zeros(len(off))
    meats = [np.zeros_like(inverse), np.zeros_like(inverse)]
    for name, t in z.items():
        D = [d[name] for d in paths.values()]
        left = t - sum(o * d for o, d in zip(off, D, strict=True))
        residual[name] = left
        for axis, meat in enumerate(meats):
            scores = np.stack([_clusters(left * d, axis) for d in D])
            meat += scores @ scores.T
            if scores.shape[1] < FEW_CLUSTERS:
                few = np.maximum(few, noises[name].grid.roundoff * _shares(paths, name))
    count = sum(max(n.known, 1) for n in noises.values())
    scatter = max(1.0, (_size(residual) / count) ** 0.5)
    plain = np.diag(inverse) * scatter**2
    sandwich = [np.diag(inverse @ meat @ inverse) for meat in meats]
    return np.sqrt(np.maximum.reduce([plain, *sandwich]) + few**2)


def _shares(paths: Directions, name: str) -> np.ndarray:
    """How much of what is known of each path is known from one output."""
    return np.array([float(np.vdot(d[name], d[name])) / _size(d) for d in paths.values()])


def _clusters(t: np.ndarray, axis: int) -> np.ndarray:
    """Sums over rows (axis 0) or columns (1) of a tensor seen as a matrix."""
    if t.ndim == 0 or t.size == 0:
        return np.atleast_1d(t).ravel()
    return t.reshape(-1, t.shape[-1]).sum(axis=1 - axis)
