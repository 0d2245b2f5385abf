"""What a method trains on a set of linear weights, and what it costs beside them.

Math:
    LoRA, rsLoRA     r (m + n)                      forward 2 r (m + n) a token
    DoRA             r (m + n) + m                  and W + s B A, its norms: 2 m n r + 4 m n a step
    double LoRA      2 r (m + n)                    W + s (B₁ A₁ + B₂ A₂): rank 2 r
    AdaLoRA          r₀ (m + n + 1) in training     and PᵀP − I, Q Qᵀ − I: 2 r₀² (m + n) a step
                     r (m + n + 1) on average after it
    HyperLoRA        (r n + m r)(z + 1) for each shape, and L e, and (k + e + 1) h if hidden
                     z = k + e, or h if hidden; 2 (r n + m r) z a layer and condition

    The backward of an update through its factors is twice its forward: du = dy B, dB = dyᵀ u,
    dA = duᵀ x, dx += du A.
Shapes:
    W (m, n)   r rank   r₀ rank at the start   k size of the condition   e of a layer's embedding
    h hidden features   L layers of one shape
Units:
    Ranks are those of each weight: double LoRA at rank r has the cost of LoRA at rank 2 r.
Errors:
    ValueError for a rank or size that is no positive integer, and r₀ < r.
Source:
    Hu et al. 2021, arXiv:2106.09685, section 4.2; Liu et al. 2024, arXiv:2402.09353, section 4;
    Zhang et al. 2023, arXiv:2303.10512, section 3; generators as in `adapters.generators`.
    The norm of DoRA is detached, as PEFT's: it has no dense backward.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .method import Method, Tensors, pairs, positive
from .model import Linear


@dataclass(frozen=True)
class LowRank(Method):
    """LoRA; rsLoRA differs in s alone."""

    rank: int

    def __post_init__(self) -> None:
        """The rank is a positive integer."""
        positive("LowRank", rank=self.rank)

    @property
    def inner(self) -> int:
        """r."""
        return self.rank

    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """A and B."""
        return pairs(linears, self.rank)


@dataclass(frozen=True)
class WeightDecomposed(Method):
    """DoRA: LoRA, and a magnitude for each output."""

    rank: int

    def __post_init__(self) -> None:
        """The rank is a positive integer."""
        positive("WeightDecomposed", rank=self.rank)

    @property
    def inner(self) -> int:
        """r."""
        return self.rank

    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """A, B and m."""
        magnitudes = (Tensors(f"{x.name}.m", (x.m,), x.count) for x in linears)
        return (*pairs(linears, self.rank), *magnitudes)

    def per_step(self, linear: Linear) -> int:
        """B A, its sum with W, and squares and their sums."""
        return 2 * linear.m * linear.n * self.rank + self.per_step_formed(linear)

    def per_step_formed(self, linear: Linear) -> int:
        """Without B A."""
        return 4 * linear.m * linear.n

    def per_step_backward(self, linear: Linear) -> int:
        """Nothing: the norm is detached."""
        return 0


@dataclass(frozen=True)
class DoubleLowRank(Method):
    """Two pairs of factors on each weight."""

    rank: int

    def __post_init__(self) -> None:
        """The rank is a positive integer."""
        positive("DoubleLowRank", rank=self.rank)

    @property
    def inner(self) -> int:
        """Both pairs side by side."""
        return 2 * self.rank

    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """A₁, B₁, A₂, B₂."""
        return pairs(linears, self.rank, 2)


@dataclass(frozen=True)
class Adaptive(Method):
    """AdaLoRA: P Λ Q, of rank `start` in training and `rank` on average after it."""

    rank: int
    start: int

    def __post_init__(self) -> None:
        """Ranks are positive, and only go down."""
        positive("Adaptive", rank=self.rank, start=self.start)
        if self.start < self.rank:
            need = f"at least the rank {self.rank}"
            raise ValueError(f"Adaptive: start must be {need}, got {self.start}")

    @property
    def inner(self) -> int:
        """r₀: masking zeroes values and removes nothing."""
        return self.start

    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """P, Λ and Q of the first rank."""
        values = (Tensors(f"{x.name}.E", (self.start, 1), x.count) for x in linears)
        return (*pairs(linears, self.start), *values)

    def saved(self, linears: Sequence[Linear]) -> int:
        """The triplets that the last budget leaves."""
        return sum(x.count * self.rank * (x.m + x.n + 1) for x in linears)

    def per_step(self, linear: Linear) -> int:
        """The two Gram matrices of the penalty."""
        return 2 * self.start**2 * (linear.m + linear.n)


@dataclass(frozen=True)
class Generated(Method):
    """HyperLoRA: one generator for each shape, affine, or with `hidden` features."""

    rank: int
    condition: int
    embedding: int
    hidden: int | None = None

    def __post_init__(self) -> None:
        """Sizes are positive integers."""
        sizes = {"rank": self.rank, "condition": self.condition, "embedding": self.embedding}
        positive("Generated", **sizes, **({} if self.hidden is None else {"hidden": self.hidden}))

    @property
    def _features(self) -> int:
        return self.hidden or self.condition + self.embedding

    @property
    def inner(self) -> int:
        """r."""
        return self.rank

    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """Heads, embeddings of layers and the hidden layer."""
        layers: Counter[tuple[int, int]] = Counter()
        for x in linears:
            layers[x.m, x.n] += x.count
        found: list[Tensors] = []
        z, given = self._features, self.condition + self.embedding
        for (m, n), count in layers.items():
            shapes = {"P": (self.rank, n, z), "p": (self.rank, n), "Q": (m, self.rank, z)}
            shapes |= {"q": (m, self.rank), "E": (count, self.embedding)}
            if self.hidden:
                shapes |= {"V": (self.hidden, given), "v": (self.hidden,)}
            found += [Tensors(f"({m}, {n}).{key}", shape, 1) for key, shape in shapes.items()]
        return tuple(found)

    def per_step(self, linear: Linear) -> int:
        """The factors from one condition."""
        hidden = 2 * self.hidden * (self.condition + self.embedding) if self.hidden else 0
        return 2 * self.rank * (linear.m + linear.n) * self._features + hidden
