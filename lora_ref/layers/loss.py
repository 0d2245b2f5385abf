"""Cross-entropy between rows of logits and the classes that were right.

Math:
    loss = (1/N) Σᵢ −log softmax(zᵢ)[tᵢ]        over the N rows that count
    dz   = dloss (softmax(z) − onehot(t)) / N
Shapes:
    z (..., v)   targets (...), integers in [0, v)   where (...), booleans   loss ()
Units:
    nats.
Errors:
    ValueError if no row counts: the mean of nothing has no value; IndexError if the target of a
    row that counts is outside [0, v).
Limits:
    Rows that do not count may hold anything, in their logits and as their target.
Source:
    PyTorch 2.13, torch.nn.functional.cross_entropy with reduction="mean". Its ignore_index=-100 is
    ``where=targets != -100``; if it ignores every row PyTorch returns NaN.
"""

from ..arrays import Array, Backward, namespace, on_device_of
from ..shapes import ShapeError, shapes
from .embedding import check_indices
from .softmax import is_boolean, log_softmax


@shapes(z="*batch v", targets="int(v) *batch")
def cross_entropy(
    z: Array, targets: Array, *, where: Array | None = None
) -> tuple[Array, Backward]:
    """The mean loss in nats over the rows that count, and backward: dloss -> dz."""
    xp, classes = namespace(z), z.shape[-1]
    counts = _checked(where, targets) if where is not None else _all(targets)
    count = int(xp.sum(xp.astype(counts, xp.int32)))
    if count == 0:
        raise ValueError("cross_entropy: at least one row must count, got none")
    check_indices("cross_entropy", "targets", xp.where(counts, targets, 0), classes)
    onehot = targets[..., None] == xp.arange(classes, **on_device_of(z))  # (..., v)
    y = log_softmax(z)[0]
    of_row = -xp.sum(xp.where(onehot, y, 0.0), axis=-1)
    loss = xp.sum(xp.where(counts, of_row, 0.0)) / count

    def backward(dloss):
        p = xp.exp(y)
        dz = (dloss / count) * (p - xp.astype(onehot, z.dtype))
        return xp.where(counts[..., None], dz, 0.0)

    return loss, backward


def _all(targets: Array) -> Array:
    xp = namespace(targets)
    return xp.ones(targets.shape, dtype=xp.bool, **on_device_of(targets))


def _checked(where: Array, targets: Array) -> Array:
    if where.shape != targets.shape or not is_boolean(where):
        raise ShapeError(
            f"cross_entropy: where must hold booleans {tuple(targets.shape)} from targets, "
            f"got {where.dtype} {tuple(where.shape)}"
        )
    return where
