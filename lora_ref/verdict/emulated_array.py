"""The array of the emulated reading: float64 values that lie on the grid they are stored on.

Every operation goes to the array's namespace, which knows the contract; see `emulated_namespace`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any


class Emulated:
    """An array that rounds as the contract of its namespace says.

    `stored` are its values before a pending factor, which `ScaleSite.LATER` alone leaves behind.
    `scaled(s)` gives s times this array with s applied before it was stored, where the choices
    want that; `again()` gives attention weights recomputed. Views of an array have neither.
    """

    is_reading_array = True
    __array_ufunc__ = None  # NumPy's arrays and scalars leave mixed operations to this class
    __slots__ = ("again", "factor", "scaled", "stored", "xp")

    def __init__(
        self,
        stored: np.ndarray,
        xp: Any,
        factor: float = 1.0,
        scaled: Callable[[float], "Emulated"] | None = None,
        again: Callable[[], "Emulated"] | None = None,
    ) -> None:
        self.stored, self.xp, self.factor = stored, xp, factor
        self.scaled, self.again = scaled, again

    @property
    def values(self) -> np.ndarray:
        """The values, with a pending factor applied and rounded."""
        return self.stored if self.factor == 1 else self.xp.rounded(self.factor * self.stored)

    def view(self, values: np.ndarray) -> "Emulated":
        """Some of the stored values, moved about."""
        return Emulated(np.asarray(values), self.xp, self.factor)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """The namespace of this reading."""
        return self.xp

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Refused: NumPy would go on without rounding."""
        raise TypeError("Emulated: NumPy functions do not round; take .values, or the namespace's")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    @property
    def dtype(self) -> np.dtype:
        """float64, which holds the values of every grid."""
        return self.stored.dtype

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def T(self) -> "Emulated":  # noqa: N802 (the array API's name)
        return self.view(self.stored.T)

    @property
    def mT(self) -> "Emulated":  # noqa: N802
        return self.view(self.stored.mT)

    def __getitem__(self, key: Any) -> "Emulated":
        return self.view(self.stored[key])

    def __neg__(self) -> "Emulated":
        return self.view(-self.stored)

    def __abs__(self) -> "Emulated":
        return self.xp.abs(self)

    def __add__(self, other: Array) -> "Emulated":
        return self.xp.add(self, other)

    def __radd__(self, other: Array) -> "Emulated":
        return self.xp.add(other, self)

    def __sub__(self, other: Array) -> "Emulated":
        return self.xp.subtract(self, other)

    def __rsub__(self, other: Array) -> "Emulated":
        return self.xp.subtract(other, self)

    def __mul__(self, other: Array) -> "Emulated":
        return self.xp.multiply(self, other)

    def __rmul__(self, other: Array) -> "Emulated":
        return self.xp.multiply(other, self)

    def __truediv__(self, other: Array) -> "Emulated":
        return self.xp.divide(self, other)

    def __rtruediv__(self, other: Array) -> "Emulated":
        return self.xp.divide(other, self)

    def __pow__(self, other: Array) -> "Emulated":
        return self.xp.pow(self, other)

    def __matmul__(self, other: Array) -> "Emulated":
        return self.xp.matmul(self, other)

    def __rmatmul__(self, other: Array) -> "Emulated":
        return self.xp.matmul(other, self)

    def __lt__(self, other: Array) -> np.ndarray:
        return self.xp.compared(np.less, self, other)

    def __le__(self, other: Array) -> np.ndarray:
        return self.xp.compared(np.less_equal, self, other)

    def __gt__(self, other: Array) -> np.ndarray:
        return self.xp.compared(np.greater, self, other)

    def __ge__(self, other: Array) -> np.ndarray:
        return self.xp.compared(np.greater_equal, self, other)

    def __eq__(self, other: Array) -> np.ndarray:  # type: ignore[override]
        return self.xp.compared(np.equal, self, other)

    def __ne__(self, other: Array) -> np.ndarray:  # type: ignore[override]
        return self.xp.compared(np.not_equal, self, other)

    __hash__ = None  # type: ignore[assignment]
