"""What a shape check costs, and what it says: our specs beside jaxtyping with beartype.

    python benchmarks/shape_check.py [--rounds 41] [--calls 500]

Prints the time that each adds to one call, and the message that each gives for five mistakes. In
every round the bare, the checked and the typed function run one after another; a figure is the
median over the rounds of the difference within a round, so that a change of the machine's speed
between rounds does not enter. It needs the [peers] extra. `docs/decisions/0001-shape-specs.md`
cites it.
"""

# ruff: noqa: F722 - jaxtyping's strings are shapes, no forward references
import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import array_api_strict
import numpy as np
from beartype import beartype
from jaxtyping import Float, jaxtyped

from lora_ref.adapters import LoRA
from lora_ref.layers.linear import linear

typed = jaxtyped(typechecker=beartype)


@typed
def typed_linear(x: Float[Any, "... n"], W: Float[Any, "m n"]):
    """`linear`, checked by jaxtyping."""
    return linear.__wrapped__(x, W)


@typed
@dataclass(frozen=True, eq=False)
class TypedLoRA:
    """`LoRA`, checked by jaxtyping at construction and at each call.

    A method's annotation does not see the fields' sizes, so it names them by an expression.
    """

    A: Float[Any, "r n"]
    B: Float[Any, "m r"]
    scale: float

    @typed
    def apply(
        self,
        x: Float[Any, "... {self.A.shape[1]}"],
        W: Float[Any, "{self.B.shape[0]} {self.A.shape[1]}"],
    ):
        return LoRA.apply.__wrapped__(self, x, W)


def ones(*shape: int) -> np.ndarray:
    """An array to be refused."""
    return np.ones(shape)


def lora(cls: Any) -> Any:
    """r = 3, n = 7, m = 11."""
    return cls(ones(3, 7), ones(11, 3), 5 / 3)


MISTAKES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "a size that another argument fixed": (
        lambda: linear(ones(2, 7), ones(11, 8)),
        lambda: typed_linear(ones(2, 7), ones(11, 8)),
    ),
    "a transposed weight, in a method": (
        lambda: lora(LoRA).apply(ones(2, 7), ones(7, 11)),
        lambda: lora(TypedLoRA).apply(ones(2, 7), ones(7, 11)),
    ),
    "two ranks, in a constructor": (
        lambda: LoRA(ones(3, 7), ones(11, 4), 1.0),
        lambda: TypedLoRA(ones(3, 7), ones(11, 4), 1.0),
    ),
    "a list": (
        lambda: linear([[1.0]], ones(2, 1)),
        lambda: typed_linear([[1.0]], ones(2, 1)),
    ),
    "two libraries": (
        lambda: linear(ones(2, 7), array_api_strict.ones((11, 7))),
        lambda: typed_linear(ones(2, 7), array_api_strict.ones((11, 7))),
    ),
}


def message(call: Callable[[], Any]) -> str:
    """The error of a call, without addresses."""
    try:
        call()
    except Exception as error:
        return re.sub(r" at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error}")
    return "(accepted)"


def seconds(f: Callable[..., Any], args: tuple[Any, ...], calls: int) -> float:
    """The time of one call, in a loop of `calls`."""
    start = time.perf_counter()
    for _ in range(calls):
        f(*args)
    return (time.perf_counter() - start) / calls


def added(versions: dict[str, Any], args: dict[str, Any], rounds: int, calls: int) -> dict:
    """Microseconds that each version adds to the one called bare, and bare's own."""
    differences: dict[str, list[float]] = {name: [] for name in versions}
    for _ in range(rounds):
        times = {name: seconds(f, args[name], calls) for name, f in versions.items()}
        for name, t in times.items():
            differences[name].append(1e6 * (t if name == "bare" else t - times["bare"]))
    return {name: statistics.median(found) for name, found in differences.items()}


def main() -> None:
    """Print the costs, then the messages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    names = ("numpy", "jaxtyping", "beartype")
    print("Python", platform.python_version(), *(f"{n} {version(n)}" for n in names))

    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((8, 64)), rng.standard_normal((64, 64))
    A, B = rng.standard_normal((4, 64)), rng.standard_normal((64, 4))
    own, other = LoRA(A, B, 0.5), TypedLoRA(A, B, 0.5)
    tables = {
        "linear(x, W)": (
            {"bare": linear.__wrapped__, "ours": linear, "jaxtyping": typed_linear},
            dict.fromkeys(("bare", "ours", "jaxtyping"), (x, W)),
        ),
        "LoRA.apply(x, W)": (
            {"bare": LoRA.apply.__wrapped__, "ours": LoRA.apply, "jaxtyping": TypedLoRA.apply},
            {"bare": (own, x, W), "ours": (own, x, W), "jaxtyping": (other, x, W)},
        ),
        "LoRA(A, B, s)": (
            {"bare": lambda: None, "ours": LoRA, "jaxtyping": TypedLoRA},
            {"bare": (), "ours": (A, B, 0.5), "jaxtyping": (A, B, 0.5)},
        ),
    }
    print(f"\n{'microseconds a call':24}{'bare':>8}{'+ ours':>10}{'+ jaxtyping':>14}")
    for name, (versions, args) in tables.items():
        found = added(versions, args, options.rounds, options.calls)
        print(f"{name:24}{found['bare']:8.1f}{found['ours']:10.1f}{found['jaxtyping']:14.1f}")

    for mistake, (ours, theirs) in MISTAKES.items():
        print(f"\n--- {mistake}\nours:      {message(ours)}\njaxtyping: {message(theirs)}")


if __name__ == "__main__":
    main()
