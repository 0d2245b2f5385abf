"""What an exact test says: `Failure`s, one a test, or one exception `Mismatch` for all of them.

A test is a function (mine, case) -> iterator of failures, where `mine` is an `Implementation`
and the case holds what the author claims. `run` takes any tuple of tests.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...mismatch import Mismatch
from ..incoming import received
from ..locate import locate

Array = Any


@dataclass(frozen=True)
class Failure:
    """One failed test: its name, what is wrong (and which bug explains it), and where."""

    test: str
    says: str
    where: str

    def __str__(self) -> str:
        return f"{self.test}: {self.says} [{self.where}]"


@dataclass(frozen=True)
class Implementation:
    """The author's function, what it calls its outputs, and how NumPy arrays become its arrays.

    `function` takes positional arrays and returns one array, the value "y", or a mapping of
    names to arrays. `adapt` converts the arrays of floats, which are float64 numbers on the
    claimed grid; arrays of integers and Python numbers are passed as they are.
    """

    function: Callable[..., Any]
    adapt: Callable[[np.ndarray], Array] = np.asarray

    def __call__(self, *arguments: Any) -> dict[str, np.ndarray]:
        """The outputs in float64, exactly the numbers that the function returned."""
        with np.errstate(all="ignore"):  # what overflows in a wrong function is not the message
            found = self.function(*(self._adapted(t) for t in arguments))
        outputs = found if isinstance(found, Mapping) else {"y": found}
        return {name: received(t, name).values for name, t in outputs.items() if t is not None}

    def _adapted(self, t: Any) -> Any:
        return self.adapt(t.copy()) if isinstance(t, np.ndarray) and t.dtype.kind == "f" else t


Test = Callable[[Implementation, Any], Iterator[Failure]]


def run(tests: Iterable[Test], mine: Implementation, case: Any) -> tuple[Failure, ...]:
    """The first failure of each test that fails, in the order of the tests."""
    firsts = (next(test(mine, case), None) for test in tests)
    return tuple(failure for failure in firsts if failure is not None)


def assert_none(failures: Iterable[Failure]) -> None:
    """Raises `Mismatch` with every failure on a line of its own.

    >>> assert_none([Failure("exact_values", "y is twice what it should be", "everywhere")])
    Traceback (most recent call last):
    ...
    lora_ref.mismatch.Mismatch: 1 exact test failed
      exact_values: y is twice what it should be [everywhere]
    """
    lines = [f"\n  {failure}" for failure in failures]
    if lines:
        tests = "test" if len(lines) == 1 else "tests"
        raise Mismatch(f"{len(lines)} exact {tests} failed{''.join(lines)}")


def compared(
    test: str,
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    says: str,
    axes: tuple[str, ...] | None = None,
) -> Iterator[Failure]:
    """A failure for each output that is not the expected one, number for number; −0 is 0."""
    for name, t in actual.items():
        if name not in expected:
            known = ", ".join(expected)
            raise ValueError(f"{test}: outputs must be among {known}, got {name!r}")
        e = expected[name]
        if t.shape != e.shape:
            yield Failure(test, f"{name} must have the shape {e.shape}, got {t.shape}", name)
        elif not np.array_equal(t, e):
            yield Failure(test, f"{name} {says}", where(name, t, e, axes))


def where(
    name: str, actual: np.ndarray, expected: np.ndarray, axes: tuple[str, ...] | None = None
) -> str:
    """The first wrong element with both numbers, and where the wrong ones sit."""
    wrong = ~(actual == expected)
    first = tuple(int(i) for i in np.argwhere(wrong)[0])
    text = f"{name}{list(first)} is {float(actual[first])!r}, must be {float(expected[first])!r}"
    return "; ".join([text, *locate(np.where(wrong, 2.0, 0.0), axes)])


def indices(along: Iterable[int]) -> str:
    """A short list of indices, the first few and the last.

    >>> indices(range(9))
    '0, 1, 2, … 8'
    """
    names = [str(int(i)) for i in along]
    return ", ".join(names if len(names) <= 5 else [*names[:3], f"… {names[-1]}"])
