"""Another adapter into a merged weight, by adding one update of rank r_new + r_old.

Math:
    W'_new = W'_old + (s_new B_new A_new − s_old B_old A_old)
Shapes:
    W (m, n), merged with `old`; the result is merged with `new`. None is the bare weight.
Errors:
    ShapeError if the adapters fit neither each other nor W.
Limits:
    Each swap rounds once in W's dtype, and the roundings add up: the result drifts from a fresh
    merge as the square root of the number of swaps. `lora.swap`, which subtracts and then adds,
    rounds twice and drifts far less in low precision: the first rounding mostly lands on the bare
    weight, which lies on the grid, and with that forgets the error. See the docs page for figures.
    Exactly right stays only who keeps W.
Source:
    Hu et al. 2021, arXiv:2106.09685, section 4.1, "No additional inference latency": subtract
    B A from the merged weight, then add another pair's product.
"""

from dataclasses import replace

from ..adapters.lora import LoRA
from ..adapters.lora_sum import cat
from ..arrays import Array
from ..shapes import shapes


@shapes(W="m n")
def swapped(W: Array, old: LoRA | None, new: LoRA | None) -> Array:
    """The weight merged with `new`, given W merged with `old`, by one addition."""
    parts = [] if old is None else [replace(old, scale=-old.scale)]
    parts += [] if new is None else [new]
    return cat(parts).merge(W) if parts else W
