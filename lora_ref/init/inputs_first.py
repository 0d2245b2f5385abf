"""An initialisation for weights that are stored inputs first, as transformers' Conv1D has them.

Math:
    initialise(Wᵀ) = (adapter, W_res)        of W: (FanInFanOut(adapter), W_resᵀ)
Shapes:
    W (n, m)   what `initialise` is given and gives back: (m, n)
Source:
    PEFT 0.21.2 transposes around the decomposition where the layer says fan_in_fan_out, in every
    initialisation but OLoRA's: see docs/divergences.md.
"""

from collections.abc import Callable

from ..adapters.base import Adapter
from ..adapters.fan_in_fan_out import FanInFanOut
from ..arrays import Array
from ..shapes import shapes


@shapes(W="n m")
def inputs_first(
    W: Array, initialise: Callable[[Array], tuple[Adapter, Array]]
) -> tuple[FanInFanOut, Array]:
    """`initialise`, a function of W (m, n) alone, for W (n, m).

    >>> import numpy as np
    >>> from lora_ref.init import inputs_first, olora
    >>> W = np.random.default_rng(0).normal(size=(7, 11))
    >>> adapter, W_res = inputs_first(W, lambda W: olora(W, rank=3, scale=5 / 3))
    >>> W_res.shape, adapter.inner.A.shape, bool(np.allclose(adapter.merge(W_res), W))
    ((7, 11), (3, 7), True)
    """
    adapter, W_res = initialise(W.T)
    return FanInFanOut(adapter), W_res.T
