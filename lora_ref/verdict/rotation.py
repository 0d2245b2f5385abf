"""Where the rows of q and k stand, for attention with a rotary embedding in front.

Shapes:
    positions (..., T), integers   cos, sin (..., w/2), w ≤ d
    Their leading axes broadcast to those of q (..., T, d) and of k (..., T, d).
Errors:
    ShapeError, ValueError and TypeError name `attention` and the field.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..layers.rotary import rotary_angles, rotary_half
from ..shapes import ShapeError
from .incoming import received, received_any, received_number

_ANGLES = ("cos", "sin")


@dataclass(frozen=True, eq=False)
class Rotation:
    """Where the rows of q and k stand: positions (T,), or the kernel's own cos and sin.

    `turn` is `rotary_half` or `rotary_interleaved`; `width` the features that are turned, all
    unless given. Cos and sin broadcast to q and k as `lora_ref.layers.rotary` says.
    """

    positions: Any = None
    cos: Any = None
    sin: Any = None
    base: float = 10000.0
    width: int | None = None
    turn: Callable[..., Any] = rotary_half

    def static(self, q: np.ndarray, k: np.ndarray) -> dict[str, Any]:
        """The static arguments of `rotated_attention`."""
        if q.shape[-2] != k.shape[-2]:
            raise ShapeError(
                f"attention: with a rotation k must be (..., T, d) with T = {q.shape[-2]} from q, "
                f"got {k.shape}"
            )
        if (self.cos is None) != (self.sin is None) or (self.cos is None) == (
            self.positions is None
        ):
            raise ValueError("attention: rotation must have positions, or both cos and sin")
        if not callable(self.turn):
            raise TypeError(
                f"attention: rotation.turn must be rotary_half or rotary_interleaved of "
                f"lora_ref.layers, got {self.turn!r}"
            )
        base, d = _positive(self.base), q.shape[-1]
        width = None if self.width is None else _even(self.width, d)
        at = None if self.positions is None else _integers(self.positions, q.shape[-2])
        if at is None:
            cos, sin = self._own_angles(d, width)
        else:
            cos, sin = rotary_angles(at, width or _even(d, d), base=base)
        for name, t in (("q", q), ("k", k)):
            _check_lead("cos" if at is None else "positions", cos.shape[:-1], name, t)
        angles = {"cos": cos, "sin": sin, "key_cos": cos, "key_sin": sin}
        return {"rotary": self.turn, **angles, "positions": at, "base": base}

    def _own_angles(self, d: int, width: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The cos and sin that the kernel used."""
        cos, sin = (received(getattr(self, n), f"rotation.{n}").values for n in _ANGLES)
        for name, t in zip(_ANGLES, (cos, sin), strict=True):
            if not np.isfinite(t).all():
                raise ValueError(f"attention: rotation.{name} must be finite, got NaN or infinity")
        if cos.shape != sin.shape:
            raise ShapeError(
                f"attention: rotation.sin must be {cos.shape} as rotation.cos is, got {sin.shape}"
            )
        turned = 2 * cos.shape[-1] if cos.ndim else 0
        if not 2 <= turned <= d or width not in (None, turned):
            w = f"w = {width} from rotation.width" if width else f"w from 2 to d = {d} of q"
            raise ShapeError(
                f"attention: rotation.cos must be (..., w/2) with {w}, got {cos.shape}"
            )
        return cos, sin


def _positive(base: Any) -> float:
    found = received_number("attention", "rotation.base", base)
    if found <= 0:
        raise ValueError(f"attention: rotation.base must be positive, got {found:g}")
    return found


def _even(width: Any, d: int) -> int:
    """The number of features that are turned, from 2 to d."""
    try:
        found = operator.index(width)
    except TypeError:
        kind = type(width).__name__
        raise TypeError(f"attention: rotation.width must be an integer, got {kind}") from None
    if found % 2 or not 2 <= found <= d:
        raise ValueError(
            f"attention: rotation.width must be even, from 2 to d = {d} of q, got {found}"
        )
    return found


def _integers(positions: Any, T: int) -> np.ndarray:
    found = received_any(positions, "rotation.positions")
    if found.dtype.kind not in "iu":
        raise TypeError(f"attention: rotation.positions must be integers, got {found.dtype}")
    if not found.ndim or found.shape[-1] != T:
        raise ShapeError(
            f"attention: rotation.positions must be (..., T) with T = {T} from q, got {found.shape}"
        )
    return found.astype(np.int64)


def _check_lead(name: str, lead: tuple[int, ...], whose: str, t: np.ndarray) -> None:
    """The leading axes of the angles broadcast to those of q or k, and add none."""
    rows = t.shape[:-1]
    sizes = zip(reversed(lead), reversed(rows), strict=False)
    if len(lead) > len(rows) or any(own not in (1, size) for own, size in sizes):
        shape = lead if name == "positions" else (*lead, "w/2")
        raise ShapeError(
            f"attention: rotation.{name} must broadcast to the rows {rows} of {whose}, "
            f"got ({', '.join(map(str, shape))})"
        )
