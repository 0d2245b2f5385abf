"""A trained adapter on a changed base as a plain LoRA on the original base, of twice the rank.

PiSSA, OLoRA, CorDA and LoRA-GA take s B₀ A₀ out of the weight before training. Their adapter means
nothing on W itself; together with where it started it does.

Math:
    W_res = W − s B₀ A₀
    W_res + s B A = W + s (B A − B₀ A₀) = W + s [B  −B₀] [A; A₀]
Shapes:
    A (r, n)   B (m, r)   A₀ (r₀, n)   B₀ (m, r₀)   of the result: (r + r₀, n), (m, r + r₀)
Errors:
    ValueError if the two have different scales; ShapeError if they do not fit one weight.
Limits:
    Exact but for W_res: where that was rounded to 16 bits, the trained model has the rounded one,
    and the plain LoRA on W differs from it by that rounding, once an element.
    Nearly half of the rank is wasted as long as B A is near B₀ A₀; the best LoRA of rank r is the
    truncated SVD of the difference.
    α has to grow with the rank for s to stay: α/r doubles it, α/√r takes √2.
Source:
    PEFT 0.21.2, tuners/lora/model.py, LoraModel.subtract_mutated_init, which save_pretrained calls
    if it is given path_initial_model_for_weight_conversion.
"""

from ..adapters.lora import LoRA
from ..arrays import namespace
from ..shapes import ShapeError


def plain_lora(trained: LoRA, start: LoRA) -> LoRA:
    """The LoRA on W that equals `trained` on W − s B₀ A₀, `start` being B₀ and A₀."""
    if trained.scale != start.scale:
        raise ValueError(
            f"plain_lora: start must have the scale of trained, {trained.scale}, got {start.scale}"
        )
    fit, found = ((t.B.shape[0], t.A.shape[1]) for t in (trained, start))
    if found != fit:
        raise ShapeError(f"plain_lora: start must fit W (m, n) = {fit} from trained, got {found}")
    xp = namespace(trained.A, start.A)
    A = xp.concat([trained.A, start.A], axis=0)
    return LoRA(A, xp.concat([trained.B, -start.B], axis=1), trained.scale)
