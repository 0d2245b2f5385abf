"""Mistakes of the scale: another factor t where the adapter says s.

Math:
    r is the rank of A, and α = s r, as the LoRA paper has it; of an rsLoRA adapter, whose α is
    s √r, the same factors t have other names.
Source:
    bug catalogue rows S1, S2, S4, S5 (rsLoRA ignored: vllm#6909, TensorRT-LLM#1668, exllamav2#619,
    aprender#2189), S11, S14 (α undivided: mlx-vlm#845, LLMs-from-scratch#1080), S13 (no scale:
    mflux#449), C14, Q16 (twice: candle-lora#26, peft#1355), Q11 (not applied: unsloth#869).
"""

from collections.abc import Callable

from ..oracle import Mistake, Oracle
from . import names
from .advice import LARGER_UPDATE, RANK_ABOVE_ONE, SCALE_NOT_ONE, UNLIKE
from .mutation import Outputs, changed, value_of

Factor = Callable[[float, int], float]

FACTORS: tuple[tuple[str, str, Factor], ...] = (
    (names.NOT_APPLIED, "0", lambda s, r: 0.0),
    (names.APPLIED_TWICE, "2s", lambda s, r: 2 * s),
    (names.SUBTRACTED, "−s", lambda s, r: -s),
    (names.ROOT_FOR_RANK, "s·√r", lambda s, r: s * r**0.5),
    (names.RANK_FOR_ROOT, "s/√r", lambda s, r: s / r**0.5),
    (names.ALPHA_UNDIVIDED, "α = s·r", lambda s, r: s * r),
    (names.RANK_TWICE, "s/r", lambda s, r: s / r),
    (names.SCALE_LEFT_OUT, "1", lambda s, r: 1.0),
    (names.SCALE_TWICE, "s²", lambda s, r: s * s),
    (names.SCALE_INVERTED, "1/s", lambda s, r: 1 / s if s else 0.0),
    (names.HALVED, "s/2", lambda s, r: s / 2),
    (names.ROOT_OF_SCALE, "√s", lambda s, r: abs(s) ** 0.5),
)


def _with(factor: Factor) -> Callable[[Oracle], Outputs | None]:
    def outputs(oracle: Oracle) -> Outputs | None:
        s, rank = value_of(oracle, "scale"), value_of(oracle, "A").shape[0]
        return changed(oracle, scale=factor(s, rank))

    return outputs


def _advice(factor: Factor) -> str:
    """Inputs that show another factor than s: not those on which it is s itself."""
    needs = {RANK_ABOVE_ONE: (2.0, 1), SCALE_NOT_ONE: (1.0, 2)}
    met = (clause for clause, (s, r) in needs.items() if factor(s, r) == s)
    return "; ".join((LARGER_UPDATE, *met))


SCALE = tuple(
    Mistake(n, f"t = {text} where s", _with(f), _advice(f), UNLIKE) for n, text, f in FACTORS
)
