"""Mean, covariance and correlation of activations, accumulated batch by batch.

Math:
    of the rows xᵢ of a batch:  N their number, μ = Σ xᵢ / N, S = Σ (xᵢ − μ)(xᵢ − μ)ᵀ
    of two batches together:    N = N₁ + N₂        d = μ₂ − μ₁        μ = μ₁ + d N₂/N
                                S = S₁ + S₂ + d dᵀ N₁N₂/N
    covariance S/(N − 1)        correlation Σ xᵢ xᵢᵀ / N = S/N + μ μᵀ
Shapes:
    x (..., n)   μ (n,)   S (n, n)
Errors:
    ShapeError if x has no axis or the batches differ in n; ValueError if x is empty or not finite,
    and for a covariance of fewer than two rows.
Limits:
    n² numbers a layer. In float32 the batches themselves are summed in float32; the deviations from
    each batch's own mean are what is squared, so a large mean costs no digits of S.
Source:
    Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances", STAN-CS-79-773.
"""

from dataclasses import dataclass

from ..arrays import Array, namespace, outer_sum
from ..shapes import bind, parse, shapes
from .decomposition import activations


@shapes(mean="n", scatter="n n")
@dataclass(frozen=True, eq=False)
class Moments:
    """The number of rows, their mean, and the sum of the squares of their deviations from it."""

    count: int
    mean: Array
    scatter: Array

    def covariance(self) -> Array:
        """S/(N − 1), what is left after the mean."""
        if self.count < 2:
            raise ValueError(f"Moments.covariance: there must be at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)

    def correlation(self) -> Array:
        """Σ xᵢ xᵢᵀ / N, the mean included: CorDA's matrix, up to its scale."""
        return self.scatter / self.count + self.mean[:, None] * self.mean[None, :]

    @shapes(x="... n")
    def with_batch(self, x: Array) -> "Moments":
        """These and the rows of one more batch x (..., n)."""
        return together(self, moments(x))


@shapes(x="... n")
def moments(x: Array) -> Moments:
    """The moments of the rows of one batch.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 3)) + 7
    >>> running = moments(x[0]).with_batch(x[1])
    >>> bool(np.allclose(running.covariance(), np.cov(x.reshape(10, 3), rowvar=False)))
    True
    """
    x = activations("moments", "x", x)
    mean = namespace(x).mean(x, axis=0)
    return Moments(x.shape[0], mean, outer_sum(x - mean, x - mean))


def together(a: Moments, b: Moments) -> Moments:
    """The moments of the rows of both, in any order."""
    means = {"a.mean": a.mean, "b.mean": b.mean}
    bind("together", means, dict.fromkeys(means, parse("n")))
    count = a.count + b.count
    d = b.mean - a.mean
    mean = a.mean + d * (b.count / count)
    scatter = a.scatter + b.scatter + d[:, None] * d[None, :] * (a.count * b.count / count)
    return Moments(count, mean, scatter)
