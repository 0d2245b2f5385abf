"""The order of a sum: how many additions one of K terms passes through at most.

Source:
    Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 4.2. Blocks of
    256: what BLAS and tensor-core kernels do. √K in place of K: Higham, Mary, A new approach to
    probabilistic rounding error analysis, 2019, theorem 2.4.
"""

import math
from dataclasses import dataclass
from typing import Any

from .contract_fields import HOME, check_at_least, check_type


@dataclass(frozen=True)
class AnyOrder:
    """Products are added in any order, also one after the other."""

    def depth(self, terms: int) -> int:
        return terms

    def __str__(self) -> str:
        return "any order"


@dataclass(frozen=True)
class Blocked:
    """Products are added in blocks, and the blocks' sums then: any order within either."""

    size: int = 256

    def __post_init__(self) -> None:
        check_at_least("Blocked", "size", self.size, 1, int)

    def depth(self, terms: int) -> int:
        return min(terms, self.size + -(-terms // self.size))

    def __str__(self) -> str:
        return f"blocks of {self.size}"


@dataclass(frozen=True)
class Pairwise:
    """A balanced tree of additions over leaves that are summed in any order."""

    leaf: int = 1

    def __post_init__(self) -> None:
        check_at_least("Pairwise", "leaf", self.leaf, 1, int)

    def depth(self, terms: int) -> int:
        leaves = -(-terms // self.leaf)
        return min(terms, self.leaf - 1 + max(leaves - 1, 0).bit_length() + 1)

    def __str__(self) -> str:
        return f"pairwise over leaves of {self.leaf}"


@dataclass(frozen=True)
class Probable:
    """Products are added in any order, by roundings that are as good as independent.

    Math:
        The product of K factors 1 + δ, |δ| ≤ u and E δ = 0, differs from 1 by at most
        exp(λ √K u + K u² / (1 − u)) − 1 with a probability of 1 − 2 exp(−λ² (1 − u)² / 2), λ the
        `deviations`: where K u < 1 that is a depth of λ √K and the one more that γ counts. At
        λ = 5 it fails once in 130,000 for one path through a sum, and a sum is beyond γ only if
        nearly all of its paths fail together.
    Limits:
        Roundings that all go one way, as those of equal terms do, have the depth K of `AnyOrder`.
    Source:
        Higham, Mary 2019, theorem 2.4.
    """

    deviations: float = 5.0

    def __post_init__(self) -> None:
        check_at_least("Probable", "deviations", self.deviations, 1.0, float)

    def depth(self, terms: int) -> int:
        return min(terms, math.ceil(self.deviations * terms**0.5))

    def __str__(self) -> str:
        return f"any order, {self.deviations:g} √K roundings of K"


Order = AnyOrder | Blocked | Pairwise | Probable
IN_BLOCKS = Blocked()


def check_order(owner: str, value: Any) -> None:
    """Refuses what is no order of a sum, with the order that was probably meant."""
    if isinstance(value, type) and issubclass(value, Order):
        remedy = f"{value.__name__}()"
    elif isinstance(value, int) and not isinstance(value, bool):
        remedy = f"Blocked({value}) {HOME}"
    else:
        remedy = f"AnyOrder(), Blocked(256), Pairwise() or Probable() {HOME}"
    check_type(owner, "order", value, (AnyOrder, Blocked, Pairwise, Probable), remedy)
