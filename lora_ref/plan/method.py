"""What every method says of its cost: what it trains, and what it computes beside W x.

Source:
    The protocol is that of `adapters.base` seen from outside: W', and y, with their backwards.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..values import checked_count
from .model import Linear


@dataclass(frozen=True)
class Tensors:
    """`count` trainable tensors of one shape."""

    name: str
    shape: tuple[int, ...]
    count: int

    @property
    def size(self) -> int:
        """Numbers in one of them."""
        product = 1
        for axis in self.shape:
            product *= axis
        return product


def numbers(tensors: Iterable[Tensors]) -> int:
    """Numbers in all tensors."""
    return sum(t.size * t.count for t in tensors)


class Method(ABC):
    """A map of frozen weights with parameters; ranks are those of each weight."""

    @abstractmethod
    def trained(self, linears: Sequence[Linear]) -> tuple[Tensors, ...]:
        """What is trained for these weights."""

    def saved(self, linears: Sequence[Linear]) -> int:
        """Numbers in a checkpoint."""
        return numbers(self.trained(linears))

    @property
    @abstractmethod
    def inner(self) -> int:
        """The axis that the factors share: 0 where there are none."""

    def per_token(self, linear: Linear) -> int:
        """FLOPs for a token beside W x, forward, for one weight: two thin products."""
        return 2 * self.inner * (linear.m + linear.n)

    def per_step(self, linear: Linear) -> int:
        """FLOPs for a step whatever its tokens, forward, for one weight."""
        return 0

    def per_step_formed(self, linear: Linear) -> int:
        """The same where B A is formed anyway."""
        return self.per_step(linear)

    def per_step_backward(self, linear: Linear) -> int:
        """The same, backward."""
        return 2 * self.per_step(linear)


def pairs(linears: Sequence[Linear], rank: int, times: int = 1) -> tuple[Tensors, ...]:
    """A and B of each weight, `times` times."""
    A = (Tensors(f"{x.name}.A", (rank, x.n), times * x.count) for x in linears)
    B = (Tensors(f"{x.name}.B", (x.m, rank), times * x.count) for x in linears)
    return (*A, *B)


def positive(who: str, **sizes: int) -> None:
    """Refuse sizes that are no positive integers."""
    for name, value in sizes.items():
        checked_count(who, name, value, 1)
