"""CorDA: the adapter starts as components of the weight that are sorted by what the inputs are.

Math:
    C = the correlation Σ xᵢ xᵢᵀ of the layer's inputs, damped to be regular
    W C = U diag(S) Vᵀ, and so W = U diag(S) Vᵀ C⁻¹
    B = U_p diag(√(S_p/s))        A = diag(√(S_p/s)) V_pᵀ C⁻¹        W_res = W − s B A
    `corda_instruction`  p the r largest: the adapter has what matters to these inputs ("ipm")
    `corda_knowledge`    p the r smallest: what matters to them stays in W_res ("kpm")
    s B A C is a truncated SVD of W C, so of all W₁ of rank r, s B A of the instruction mode makes
    ‖(W − W₁) C‖ least.
Shapes:
    W, W_res (m, n)   C (n, n)   A (r, n)   B (m, r)
Errors:
    ShapeError if W or C does not fit; ValueError if the rank is no integer from 1 to min(m, n), s
    not positive and finite, W, C or W C not finite, or, in `damped`, C without a positive trace or
    so large that no damping makes it regular; in both modes, C that is singular to rounding, of
    a condition of 1/(n ε) or more, as that of fewer than n inputs is: `damped` is for it.
    TypeError if C is not of the type that W is decomposed in: float64 for float64, else float32.
Limits:
    s B A and W_res do not change with the size of C; the factors do, B ∝ √C and A ∝ 1/√C, and so
    does training. A mean over tokens, over samples or a sum are three adapters.
    The trailing components are those that rounding hurts most: in the knowledge mode the error of
    A is that of S_p, relative to S₁, times the condition of C.
Source:
    Yang et al. 2024, arXiv:2406.05223, section 3; PEFT 0.21.2, tuners/lora/corda.py,
    collect_eigens_for_layer and crop_corda_eigens, and layer.py, LoraLayer.corda_init. PEFT has C⁻¹
    by inversion; here it is solved for. `damped` and `sample_correlation` are PEFT's: the mean over
    calls of the layer, where each input is divided by |max x|. That is not max |x|: see
    docs/divergences.md.
"""

from collections.abc import Iterable

from ..adapters.lora import LoRA
from ..arrays import Array, namespace, on_device_of, outer_sum, working
from ..shapes import bind, parse, shapes
from ..values import checked_finite
from .decomposition import activations, checked_rank, checked_scale, residual, svd
from .pissa import split_evenly

FIRST_DAMPING = 0.01
WORST_INVERSE = 0.05  # the ‖C C⁻¹ − 1‖ at which PEFT doubles the damping


@shapes(W="m n", C="n n")
def corda_instruction(W: Array, C: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter of W's components that matter most to the inputs, and W without them."""
    checked_rank("corda_instruction", rank, W)
    return _start("corda_instruction", W, C, slice(0, rank), scale)


@shapes(W="m n", C="n n")
def corda_knowledge(W: Array, C: Array, rank: int, scale: float) -> tuple[LoRA, Array]:
    """The adapter of W's components that matter least to the inputs, and W without them."""
    checked_rank("corda_knowledge", rank, W)
    k = min(W.shape)
    return _start("corda_knowledge", W, C, slice(k - rank, k), scale)


@shapes(C="n n")
def damped(C: Array) -> Array:
    """C + d · mean(diag C), d = 0.01, doubled until the inverse is one."""
    C = checked_finite("damped", "C", working(C))
    xp = namespace(C)
    mean = float(xp.sum(xp.linalg.diagonal(C) / C.shape[0]))  # the trace may be beyond the type
    if not mean > 0:
        raise ValueError(f"damped: C must have a positive trace, got a mean of {mean}")
    one = xp.eye(C.shape[0], dtype=C.dtype, **on_device_of(C))
    largest, room = float(xp.max(xp.abs(C))), float(xp.finfo(C.dtype).max)
    damping = FIRST_DAMPING
    while largest + damping * mean <= room:
        regular = C + damping * mean * one
        apart = regular @ xp.linalg.inv(regular) - one
        if float(xp.linalg.matrix_norm(apart)) < WORST_INVERSE:
            return regular
        damping *= 2
    raise ValueError(
        f"damped: C must be small enough that damping makes it regular in {C.dtype}, "
        f"got {largest} as its largest element"
    )


def sample_correlation(samples: Iterable[Array]) -> Array:
    """The mean of x̂ᵀ x̂ over samples x (N, n), x̂ = x / |max x|, one sample after the other.

    Errors:
        ShapeError if a sample is not as wide as the first; ValueError if there is no sample, or one
        that is empty, not finite, or whose largest element is zero.
    """
    owner, width = "sample_correlation", parse("... n")
    total, count = None, 0
    for count, x in enumerate(samples, start=1):
        name = f"sample {count - 1}"
        wide = {name: x} if total is None else {"sample 0": total, name: x}
        bind(owner, wide, dict.fromkeys(wide, width))
        x = activations(owner, name, x)
        top = float(abs(namespace(x).max(x)))
        if top == 0:
            raise ValueError(
                f"{owner}: the largest element of {name} must not be zero, it is divided by"
            )
        new = outer_sum(x / top, x / top)
        total = new if total is None else total + new
    if total is None:
        raise ValueError(f"{owner}: samples must hold at least one sample, got none")
    return total / count


def _start(owner: str, W: Array, C: Array, part: slice, scale: float) -> tuple[LoRA, Array]:
    scale = checked_scale(owner, scale)
    full = checked_finite(owner, "W", working(W))
    C = checked_finite(owner, "C", working(C))
    if C.dtype != full.dtype:
        raise TypeError(
            f"{owner}: C must be of the type {full.dtype} that W is decomposed in, got {C.dtype}"
        )
    _check_regular(owner, C)
    U, S, Vt = svd(owner, "W C", full @ C)
    V_C = namespace(C).linalg.solve(C.T, Vt[part, :].T).T  # Vᵀ C⁻¹
    lora = split_evenly(U[:, part], S[part], V_C, scale)
    return lora, residual(W, lora)


def _check_regular(owner: str, C: Array) -> None:
    """Refuse a C whose inverse would be rounding errors."""
    xp = namespace(C)
    lengths = xp.linalg.svdvals(C)
    largest, least = float(lengths[0]), float(lengths[-1])
    if not least > largest * C.shape[0] * float(xp.finfo(C.dtype).eps):
        condition = f"{largest / least:.1e}" if least > 0 else "infinite"
        raise ValueError(
            f"{owner}: C must be regular in {C.dtype}, its condition is {condition}; `damped` "
            f"makes it so"
        )
