"""What a plan has to know of a model: its linear weights, what else it has, and its attention.

Math:
    parameters      N = Σ count · m n + others
    FLOPs forward   per token 2 Σ count · m n + 4 T a, a multiplication and an addition each one
Shapes:
    W (m, n)   T tokens of a sequence   a the widths of attention (heads · head size), all layers
Errors:
    ValueError for sizes that are no positive integers, and for targets that match nothing.
Limits:
    FLOPs of products of matrices. Norms, softmax, activations, rotations and look-ups are left
    out, about a percent of a wide model. Scores and values of attention are 4 T a a token. Every
    query meets every key: kernels that skip the masked half of causal attention do half of 4 T a.
Source:
    Kaplan et al. 2020, "Scaling Laws for Neural Language Models", arXiv:2001.08361, table 1;
    target names as PEFT 0.21.2, tuners/tuners_utils.py, check_target_module_exists.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..checkpoint.errors import shown
from ..values import checked_count

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Linear:
    """`count` weights (m, n) of one name; `head` is the output layer, `tied` an embedding."""

    name: str
    m: int
    n: int
    count: int = 1
    head: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        """Sizes are positive integers."""
        for field in ("m", "n", "count"):
            checked_count("Linear", field, getattr(self, field), 1)

    @property
    def parameters(self) -> int:
        """Numbers in all weights of this name, none of them counted twice."""
        return 0 if self.tied else self.count * self.m * self.n

    def matches(self, target: str) -> bool:
        """Whether PEFT's rule finds this module: the whole name or its end after a point.

        >>> Linear("self_attn.q_proj", 4, 4).matches("q_proj")
        True
        >>> Linear("self_attn.q_proj", 4, 4).matches("proj")
        False
        """
        return self.name == target or self.name.endswith(f".{target}")


@dataclass(frozen=True)
class Model:
    """Linear weights, the number of parameters elsewhere, and the widths of attention."""

    name: str
    linears: tuple[Linear, ...]
    others: int = 0  # embeddings, norms, biases
    attention: int = 0
    targets: tuple[str, ...] = ()  # what PEFT adapts if nothing is said
    dtype: str | None = None  # of the weights, where the config says it

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.others + sum(linear.parameters for linear in self.linears)

    def targeted(self, targets: Iterable[str]) -> tuple[Linear, ...]:
        """The linear weights that `targets` name; "all-linear" is all but the output layer."""
        wanted = tuple(targets)
        names = ", ".join(linear.name for linear in self.linears)
        for target in wanted:
            if target != ALL_LINEAR and not any(x.matches(target) for x in self.linears):
                need = f"targets must name some of {names}"
                raise ValueError(f"Model.targeted: {need}, got {shown(target)}")
        if not wanted:
            raise ValueError(f"Model.targeted: targets must name some of {names}, got none")
        return tuple(x for x in self.linears if any(_meant(x, target) for target in wanted))

    def forward_flops(self, tokens: int) -> int:
        """FLOPs of the forward for one token of a sequence of `tokens`."""
        return 2 * sum(x.count * x.m * x.n for x in self.linears) + 4 * tokens * self.attention


def _meant(linear: Linear, target: str) -> bool:
    return not linear.head if target == ALL_LINEAR else linear.matches(target)
