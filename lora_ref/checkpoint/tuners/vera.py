"""VeRA in PEFT's layout.

    PATH.vera_lambda_b (m,)          PATH.vera_lambda_d (r,)
    base_model.vera_A (r, N)         base_model.vera_B (M, r)         once for all modules

N and M are the sizes of the largest module; each takes the first columns of A and rows of B. How
many columns of A a module takes is its weight's to say and no key does: a module is read as a
`SharedVeRA`, which has all of A and takes the columns of each weight, and `of_inputs` makes the
`VeRA` of one.

Limits:  a file without the bases (save_projection false) is refused: only PyTorch's generator has
         them
Source:  PEFT 0.21.2, tuners/vera/model.py, VeraModel._get_adapter_state_dict, _find_dim
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...adapters.base import Adapter
from ...adapters.vera import VeRA
from ...arrays import Array, Backward, namespace
from ...shapes import shapes
from ...trees import with_leaves
from ..config_fields import Field, is_rank
from ..inputs_first import inside, turned
from .tuner import ORIENTATION, Arrays, Module, Tuner, missing, wrong_adapter

_SLOTS = ("vera_lambda_b", "vera_lambda_d")


@dataclass(frozen=True, eq=False)
class SharedVeRA(Adapter):
    """A VeRA with the whole of A, of which each weight has as many columns as it has inputs."""

    vera: VeRA

    @shapes(W="m n")
    def weight(self, W: Array) -> tuple[Array, Backward]:
        """W' of the VeRA with n columns."""
        W_merged, backward = of_inputs(self, W.shape[1]).weight(W)
        return W_merged, lambda dW: with_leaves(self, vera=backward(dW))

    @shapes(x="... n", W="m n")
    def apply(self, x: Array, W: Array) -> tuple[Array, Backward]:
        """y of the VeRA with n columns."""
        y, vera_backward = of_inputs(self, W.shape[1]).apply(x, W)

        def backward(dy):
            dx, dvera = vera_backward(dy)
            return dx, with_leaves(self, vera=dvera)

        return y, backward


def of_inputs(adapter: Adapter, inputs: int) -> Adapter:
    """The VeRA for a weight of so many inputs, A cut to their columns; in FanInFanOut or not."""
    vera = _bare(inside(adapter))
    if not isinstance(vera, VeRA):
        raise TypeError(f"of_inputs: adapter must be VeRA, got {type(vera).__name__}")
    if not 1 <= inputs <= vera.A.shape[1]:
        raise ValueError(
            f"of_inputs: inputs must be from 1 to {vera.A.shape[1]}, the columns of A, got {inputs}"
        )
    return turned(replace(vera, A=vera.A[:, :inputs]), inside(adapter) is not adapter)


def _bare(adapter: Adapter) -> Adapter:
    return adapter.vera if isinstance(adapter, SharedVeRA) else adapter


def _read(module: Module, arrays: Arrays, shared: Arrays) -> SharedVeRA:
    missing(module, arrays, _SLOTS)
    rank = module.settings["r"]
    A = module.shaped("the shared vera_A", shared["vera_A"], (rank, None))
    B = module.shaped("the shared vera_B", shared["vera_B"], (None, rank))
    lambda_b = module.shaped(_SLOTS[0], arrays[_SLOTS[0]], (None,))
    lambda_d = module.shaped(_SLOTS[1], arrays[_SLOTS[1]], (rank,))
    if lambda_b.shape[0] > B.shape[0]:
        got = f"{lambda_b.shape[0]}"
        raise module.refused(
            f"must have at most {B.shape[0]} outputs, the rows of vera_B, got {got}"
        )
    return SharedVeRA(VeRA(lambda_b, lambda_d, A, B[: lambda_b.shape[0], :]))


def _write(module: Module, adapter: Adapter) -> Arrays:
    vera = _bare(adapter)
    if not isinstance(vera, VeRA):
        raise wrong_adapter(module, adapter, "VeRA")
    return {_SLOTS[0]: vera.lambda_b, _SLOTS[1]: vera.lambda_d}


def _share(modules: Mapping[str, Adapter]) -> Arrays:
    """The largest A and B, of which all others must be the first columns and rows."""
    bare = {path: _bare(adapter) for path, adapter in modules.items()}
    given = {path: (a.A, a.B) for path, a in bare.items() if isinstance(a, VeRA)}
    A = max((pair[0] for pair in given.values()), key=lambda t: t.shape[1])
    B = max((pair[1] for pair in given.values()), key=lambda t: t.shape[0])
    for path, (own_A, own_B) in given.items():
        if not (_same(own_A, A[:, : own_A.shape[1]]) and _same(own_B, B[: own_B.shape[0], :])):
            raise ValueError(
                f"from_adapters: A and B of {path} must be the first columns and rows of those "
                "that all modules share, got others"
            )
    return {"vera_A": A, "vera_B": B}


def _same(a: Array, b: Array) -> bool:
    return tuple(a.shape) == tuple(b.shape) and bool(namespace(a).all(a == b))


TUNER = Tuner(
    "VERA",
    {
        "r": Field(256, is_rank, "a rank, an integer of at least 1"),
        "save_projection": Field(
            True, lambda v: v is True, "true: no other file has A and B in it"
        ),
        **ORIENTATION,
    },
    _SLOTS,
    _read,
    _write,
    only="vera_only",
    shared=("vera_A", "vera_B"),
    share=_share,
)
