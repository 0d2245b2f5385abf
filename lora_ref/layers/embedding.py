"""Embedding: a row of a table for every integer.

Math:
    y = E[ids]          dE = Σᵢ onehot(idsᵢ) dyᵢᵀ, repeated integers add up
Shapes:
    ids (...), integers in [0, v)   E (v, n)   y (..., n)
Errors:
    IndexError if an integer is outside [0, v): negative ones do not count from the end.
Source:
    PyTorch 2.13, torch.nn.functional.embedding. Its padding_idx only drops one row of dE. NumPy
    would wrap a negative index around, JAX would clamp or fill.
"""

from ..arrays import Array, Backward, index_sum, namespace, rows
from ..shapes import shapes


@shapes(ids="int(v) ...", E="v n")
def embedding(ids: Array, E: Array) -> tuple[Array, Backward]:
    """y = E[ids], and backward: dy -> dE; integers have no gradient."""
    xp = namespace(E)
    size, width = E.shape
    check_indices("embedding", "ids", ids, size)
    flat = xp.reshape(ids, (-1,))
    y = xp.reshape(xp.take(E, flat, axis=0), (*ids.shape, width))

    def backward(dy):
        return index_sum(flat, rows(dy), size)

    return y, backward


def check_indices(owner: str, name: str, index: Array, size: int) -> None:
    """Every integer of `index` is in [0, size)."""
    xp = namespace(index)
    outside = (index < 0) | (index >= size)
    if bool(xp.any(outside)):
        low, high = int(xp.min(index)), int(xp.max(index))
        raise IndexError(f"{owner}: {name} must be integers in [0, {size}), got {low} … {high}")
