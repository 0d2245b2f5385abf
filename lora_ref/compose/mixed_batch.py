"""A batch in which every row has its own adapter, or none: the definition, row by row.

Math:
    y_i = x_i W'_eᵀ with e = chosen_i, and y_i = x_i Wᵀ where chosen_i = −1

    dx_i = dy_i W'_e        dθ_e = Σ over the rows i of e of what row i alone gives
Shapes:
    x (*batch, n)   W (m, n)   chosen (*batch) integers from −1 to E − 1   y (*batch, m)
Errors:
    ShapeError if chosen and x have other leading axes, an adapter does not fit W, or dy has not
    y's shape; ValueError if a number in chosen is that of no adapter; TypeError if an adapter
    is no Adapter, or its arrays are of another library or dtype than W.
Limits:
    One merged weight a row: this is what `mixed_gather` and `mixed_grouped` have to equal, not how
    to compute it. It takes adapters of any kind, several kinds in one batch too; they take LoRA.
    Where a batch holds one adapter for a whole sequence, as PEFT's adapter_names do, broadcast:
    chosen (N, 1) to (N, T).
    An adapter that no row has gets a gradient of zeros.
    One dtype for W and all adapters. PEFT's usual state, W in bfloat16 and factors in float32, is
    refused: `LoRA.apply` has no rule for it either and gives what the library promotes to, which
    for PyTorch is an error. PEFT casts x to the factors' dtype and the update to y's.
Source:
    PEFT 0.21.2, tuners/lora/layer.py, LoraLayer._mixed_batch_forward, whose name for no adapter is
    "__base__"; −1 is that of the kernels of Punica (Chen et al. 2023, arXiv:2310.18547).
"""

from collections.abc import Sequence
from typing import Any

from ..adapters.base import Adapter, apply_merged
from ..adapters.lora import LoRA
from ..arrays import Array, Backward, namespace, on_device_of, rows
from ..layers.linear import linear
from ..shapes import ShapeError, Spec, bind, parse, shapes
from ..trees import leaves, tree_map, zeros_like


@shapes(x="*batch n", W="m n", chosen="int(E) *batch")
def mixed_batch(
    x: Array, W: Array, chosen: Array, adapters: Sequence[Adapter]
) -> tuple[Array, Backward]:
    """y_i = x_i W'ᵀ by the weight of row i's own adapter, and backward: dy -> (dx, dadapters)."""
    check_adapters("mixed_batch", W, adapters, Adapter)
    xp, X, shape = namespace(x, W), rows(x), (*x.shape[:-1], W.shape[0])
    choices = choices_of("mixed_batch", chosen, adapters)
    ys, backwards = [X[:0, :] @ W.T], []
    for i, e in enumerate(choices):
        row = X[i : i + 1, :]
        y, row_backward = linear(row, W) if e < 0 else apply_merged(adapters[e], row, W)
        ys.append(y)
        backwards.append(row_backward)

    def backward(dy):
        dY = cotangent_rows("mixed_batch", dy, shape)
        gradients = [zeros_like(adapter) for adapter in adapters]
        dxs = [dY[:0, :] @ W]
        for i, e in enumerate(choices):
            dx, dadapter = backwards[i](dY[i : i + 1, :])
            dxs.append(dx)
            if e >= 0:
                gradients[e] = tree_map(lambda a, b: a + b, gradients[e], dadapter)
        return xp.reshape(xp.concat(dxs, axis=0), x.shape), tuple(gradients)

    return xp.reshape(xp.concat(ys, axis=0), shape), backward


def choices_of(owner: str, chosen: Array, adapters: Sequence[Any]) -> list[int]:
    """The adapter of each row, on the host, row after row."""
    flat = rows(chosen[..., None])[:, 0]
    choices = [int(flat[i]) for i in range(flat.shape[0])]
    for e in choices:
        if not -1 <= e < len(adapters):
            raise ValueError(
                f"{owner}: chosen must hold integers from −1, no adapter, to {len(adapters) - 1}, "
                f"the last of {len(adapters)} adapters, got {e}"
            )
    return choices


def cotangent_rows(owner: str, dy: Array, shape: tuple[int, ...]) -> Array:
    """The rows of dy, which must have the shape of y."""
    bind(owner, {"dy": dy}, {"dy": Spec("real", None, None, shape)})
    return rows(dy)


def check_adapters(owner: str, W: Array, adapters: Sequence[Any], kind: type) -> None:
    """Every adapter is of this kind and of W's library and dtype, whether a row has it or not."""
    any_shape = parse("...")
    for i, adapter in enumerate(adapters):
        if not isinstance(adapter, kind):
            got = type(adapter).__name__
            raise TypeError(f"{owner}: adapters[{i}] must be of type {kind.__name__}, got {got}")
        for name, leaf in leaves(adapter, f"adapters[{i}]"):
            bind(owner, {"W": W, name: leaf}, {"W": any_shape, name: any_shape})
            if leaf.dtype != W.dtype:
                raise TypeError(f"{owner}: {name} must have W's dtype {W.dtype}, got {leaf.dtype}")


def check_fit(owner: str, W: Array, adapters: Sequence[LoRA]) -> None:
    """Every adapter is a LoRA for W."""
    check_adapters(owner, W, adapters, LoRA)
    for i, adapter in enumerate(adapters):
        found = (adapter.B.shape[0], adapter.A.shape[1])
        if found != tuple(W.shape):
            raise ShapeError(
                f"{owner}: adapters[{i}] must fit W (m, n) = {tuple(W.shape)}, got {found}"
            )


def as_index(values: Sequence[int], like: Array) -> Array:
    """Integers as an index of `like`'s library, in its default width."""
    xp = namespace(like)
    return xp.asarray(values, dtype=xp.arange(1).dtype, **on_device_of(like))
