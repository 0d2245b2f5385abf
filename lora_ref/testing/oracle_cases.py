"""Whole problems by a few numbers: a seed, sizes, a regime, a contract. The arrays follow.

    case = LoraCase(seed=0, T=1, n=1, m=1, r=2, alpha=1.0, bias=False,
                    regime=BALANCED, contract=PRESETS['bfloat16'])
    y = my_kernel(**case.arrays, scale=case.scale)
    assert_matches({"y": y}, case.oracle, case.contract, left_out=case.oracle.outputs_but("y"))

The repr of a case is the expression that makes it, with the names of `lora_ref.testing.regimes` and
`lora_ref.verdict.contract`, so that a failing example can be pasted into a test.

Units:
    scale = α/r, for attention 1/√d. `arrays` are float64 and hold numbers of the contract's
    input grid, so a cast to the kernel's dtype is exact.
"""

import abc
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from ..adapters.lora import scaling
from ..verdict.contract import Contract
from ..verdict.oracle import Oracle
from ..verdict.oracles import attention, dora_linear, lora_linear, lora_merged
from .regimes import Regime


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OracleCase(abc.ABC):
    """What every case has; two are equal if their reprs are."""

    seed: int
    regime: Regime
    contract: Contract

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The inputs and the cotangent by name; they must not be written to."""
        drawn = self._draw(np.random.default_rng(self.seed))
        for t in drawn.values():
            t.flags.writeable = False
        return drawn

    @cached_property
    def oracle(self) -> Oracle:
        """What is to be computed from `arrays`, gradients included."""
        return self._oracle(dict(self.arrays))

    @property
    @abc.abstractmethod
    def scale(self) -> float:
        """The number factor of the kernel."""

    @abc.abstractmethod
    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]: ...

    @abc.abstractmethod
    def _oracle(self, t: dict[str, Any]) -> Oracle: ...

    def __repr__(self) -> str:
        others = [f.name for f in fields(self) if f.name not in ("seed", "regime", "contract")]
        order = ("seed", *others, "regime", "contract")
        said = (f"{name}={getattr(self, name)!r}" for name in order)
        return f"{type(self).__name__}({', '.join(said)})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Adapted(OracleCase):
    """A linear layer with m outputs, n inputs and an adapter of rank r, over T rows."""

    T: int
    n: int
    m: int
    r: int
    alpha: float
    bias: bool

    @property
    def scale(self) -> float:
        return scaling(self.alpha, self.r)

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        sizes = {"T": self.T, "n": self.n, "m": self.m, "r": self.r}
        drawn = self.regime.linear(rng, **sizes, scale=self.scale, grid=self.contract.inputs)
        unused = {name for name, used in self._optional().items() if not used}
        return {name: t for name, t in drawn.items() if name not in unused}

    def _optional(self) -> dict[str, bool]:
        return {"b": self.bias, "magnitude": False}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LoraCase(_Adapted):
    """y = x Wᵀ + s (x Aᵀ) Bᵀ + b: arrays x, W, A, B, dy, and b with `bias`."""

    def _oracle(self, t: dict[str, Any]) -> Oracle:
        return lora_linear(**t, scale=self.scale)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DoraCase(_Adapted):
    """DoRA with the norm held constant in the backward; `magnitude` besides LoRA's arrays."""

    def _optional(self) -> dict[str, bool]:
        return {"b": self.bias}

    def _oracle(self, t: dict[str, Any]) -> Oracle:
        return dora_linear(m=t.pop("magnitude"), **t, scale=self.scale)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MergedCase(OracleCase):
    """W' = W + s B A: arrays W, A, B and the gradient dW of W'."""

    n: int
    m: int
    r: int
    alpha: float

    @property
    def scale(self) -> float:
        return scaling(self.alpha, self.r)

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        sizes = {"n": self.n, "m": self.m, "r": self.r}
        return self.regime.merge(rng, **sizes, scale=self.scale, grid=self.contract.inputs)

    def _oracle(self, t: dict[str, Any]) -> Oracle:
        return lora_merged(**t, scale=self.scale)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AttentionCase(OracleCase):
    """Attention of `heads` query heads on `kv_heads`, T queries and S keys: arrays q, k, v, do."""

    T: int
    S: int
    d: int
    e: int
    heads: int
    kv_heads: int
    causal: bool

    @property
    def scale(self) -> float:
        return self.d**-0.5

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        names = ("T", "S", "d", "e", "heads", "kv_heads")
        sizes = {name: getattr(self, name) for name in names}
        return self.regime.attention(rng, **sizes, grid=self.contract.inputs)

    def _oracle(self, t: dict[str, Any]) -> Oracle:
        return attention(**t, causal=self.causal)
