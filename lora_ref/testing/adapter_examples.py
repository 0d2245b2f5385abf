"""Examples of the adapters whose fields their shape specs cannot make: what `adapter_case` lacks.

    make = lambda rng: adapter_example(ConvLoRA, rng)

gives a case of any adapter of the library, by `adapter_case` where that is enough. Every field is
at a generic point, sizes are pairwise different, and `square` makes them equal.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..adapters import (
    OFT,
    AdaConvLoRA,
    AdaLoRA,
    Bat,
    BiasedLoRA,
    ColumnDoRA,
    ConvDoRA,
    ConvLoRA,
    DoRA,
    EmbeddingDoRA,
    EmbeddingLoRA,
    FanInFanOut,
    FusedLoRA,
    HyperLoRA,
    HyperLoRAPerExample,
    LoKr,
    LoRA,
    LoralibConvLoRA,
    LoRASum,
    MiSS,
)
from ..adapters.fused_qkv import interleaved_rows
from ..adapters.generators import LinearGenerator
from ..adapters.lokr import LowRank
from ..layers.convolution import Geometry
from ..layers.padding import pad_circular
from .examples import LEADING, SCALE, Case, adapter_case
from .generator_examples import around, condition_examples, generator_example

Rng = np.random.Generator


def adapter_example(cls: Any, rng: Rng, square: int | None = None) -> Case:
    """(adapter, (x, W)) for an adapter class of the library."""
    example = EXAMPLES.get(cls)
    return example(rng, square) if example else adapter_case(cls, rng, square)


def _lora(rng: Rng, m: int, n: int, rank: int, scale: float = SCALE) -> LoRA:
    return LoRA(rng.standard_normal((rank, n)), rng.standard_normal((m, rank)), scale)


def _case(adapter: Any, rng: Rng, x: tuple[int, ...], W: tuple[int, ...]) -> Case:
    return Case(adapter, (rng.standard_normal(x), rng.standard_normal(W)))


def _dora(rng: Rng, square: int | None) -> Case:
    """Magnitudes of both signs, and none that is the norm of its row."""
    n, m, rank = [square] * 3 if square else (11, 7, 3)
    lora = _lora(rng, m, n, rank)
    adapter = DoRA(lora.A, lora.B, rng.standard_normal(m), SCALE)
    return _case(adapter, rng, (*LEADING, n), (m, n))


def _column_dora(rng: Rng, square: int | None) -> Case:
    n, m, rank = [square] * 3 if square else (11, 7, 3)
    lora = _lora(rng, m, n, rank)
    adapter = ColumnDoRA(lora.A, lora.B, rng.standard_normal(n), SCALE)
    return _case(adapter, rng, (*LEADING, n), (m, n))


def _conv_dora(rng: Rng, square: int | None) -> Case:
    case = _conv(rng, square)
    return Case(ConvDoRA(case.target, rng.standard_normal(case.target.B.shape[0])), case.args)


def _embedding_dora(rng: Rng, square: int | None) -> Case:
    case = adapter_case(EmbeddingLoRA, rng, square)
    m = rng.standard_normal(case.target.B.shape[0])
    return Case(EmbeddingDoRA(case.target, m), case.args)


def _lora_sum(rng: Rng, square: int | None) -> Case:
    n, m, *ranks = [square] * 4 if square else (11, 7, 3, 2)
    parts = [_lora(rng, m, n, rank, SCALE / (i + 1)) for i, rank in enumerate(ranks)]
    return _case(LoRASum(tuple(parts)), rng, (*LEADING, n), (m, n))


def _fan_in_fan_out(rng: Rng, square: int | None) -> Case:
    n, m, rank = [square] * 3 if square else (11, 7, 3)
    return _case(FanInFanOut(_lora(rng, m, n, rank)), rng, (*LEADING, n), (n, m))


def _biased(rng: Rng, square: int | None) -> Case:
    n, m, rank = [square] * 3 if square else (11, 7, 3)
    adapter = BiasedLoRA(_lora(rng, m, n, rank), rng.standard_normal(m))
    return _case(adapter, rng, (*LEADING, n), (m, n))


def _fused(rng: Rng, square: int | None) -> Case:
    """Grouped-query q and v with LoRA, k without; square: W is square and heads are not shared."""
    heads, kv_heads, head_dim = (2, 2, square) if square else (4, 2, 3)
    rank_q, rank_v = [square] * 2 if square else (3, 5)
    m = (heads + 2 * kv_heads) * head_dim
    n = m if square else 11
    q = _lora(rng, heads * head_dim, n, rank_q)
    v = _lora(rng, kv_heads * head_dim, n, rank_v, SCALE / 2)
    adapter = FusedLoRA((q, None, v), interleaved_rows(heads, kv_heads, head_dim))
    return _case(adapter, rng, (*LEADING, n), (m, n))


def _conv(rng: Rng, square: int | None) -> Case:
    """Two axes, two groups, and nothing else equal; square: as many channels as offsets."""
    if square:
        geometry = Geometry.uniform(2, padding=1)
        m = channels = rank = square
        kernel, space = (square, square), (square + 1, square + 1)
    else:
        geometry = Geometry((2, 1), ((1, 0), (3, 2)), (1, 2), groups=2, pad=pad_circular)
        m, channels, rank, kernel, space = 10, 3, 4, (3, 2), (7, 5)
    groups, n = geometry.groups, geometry.groups * channels
    A = rng.standard_normal((rank, channels, *kernel))
    B = rng.standard_normal((m, rank // groups, 1, 1))
    adapter = ConvLoRA(A, B, SCALE, geometry)
    return _case(adapter, rng, (*LEADING, n, *space), (m, channels, *kernel))


def _ada_conv(rng: Rng, square: int | None) -> Case:
    """Two groups that share the rows of Q, and nothing equal; square: as many channels as rows."""
    if square:
        geometry, groups = Geometry.uniform(2, padding=1), 1
        m = channels = rank = square
        kernel, space = (square, square), (square + 1, square + 1)
    else:
        groups = 2
        geometry = Geometry((2, 1), ((1, 0), (3, 2)), (1, 2), groups=groups, pad=pad_circular)
        m, channels, rank, kernel, space = 10, 3, 4, (3, 2), (7, 5)
    width = channels * kernel[0] * kernel[1]
    P, Q = rng.standard_normal((m, rank)), rng.standard_normal((rank, width))
    inner = AdaLoRA(P, rng.standard_normal(rank), Q, SCALE)
    W = (m, channels, *kernel)
    return _case(AdaConvLoRA(inner, geometry), rng, (*LEADING, groups * channels, *space), W)


def _loralib_conv(rng: Rng, square: int | None) -> Case:
    """Three groups and a kernel of two: rows of B A and kernels of W then overlap unevenly."""
    size, groups = (square, 1) if square else (2, 3)
    m, channels, rank = [square] * 3 if square else (9, 5, 4)
    n = groups * channels
    A = rng.standard_normal((rank * size, n * size))
    B = rng.standard_normal((m // groups * size, rank * size))
    geometry = Geometry.uniform(2, stride=2, padding=1, groups=groups)
    W = (m, channels, size, size)
    adapter = LoralibConvLoRA(A, B, SCALE, geometry)
    return _case(adapter, rng, (*LEADING, n, size + 4, size + 1), W)


def _lokr(rng: Rng, square: int | None) -> Case:
    """C whole, D a product of more columns than either side has rows; square: W is (k², k²)."""
    m1, n1, m2, n2, rank = [square] * 5 if square else (2, 3, 5, 4, 6)
    D = LowRank(rng.standard_normal((rank, n2)), rng.standard_normal((m2, rank)))
    adapter = LoKr(rng.standard_normal((m1, n1)), D, SCALE)
    return _case(adapter, rng, (*LEADING, n1 * n2), (m1 * m2, n1 * n2))


def _miss(rng: Rng, square: int | None) -> Case:
    """A last group that is short, and a block that fits twice below itself."""
    n, m, r, p = [square] * 4 if square else (11, 10, 3, 5)
    return _case(MiSS(rng.standard_normal((r, p))), rng, (*LEADING, n), (m, n))


def _bat(rng: Rng, square: int | None) -> Case:
    """Two blocks of rows, four of columns; square: one that is as large as W."""
    n, m, r = [square] * 3 if square else (12, 6, 3)
    return _case(Bat(rng.standard_normal((m // r, r, r))), rng, (*LEADING, n), (m, n))


def _oft(rng: Rng, square: int | None) -> Case:
    """Three blocks; square: one, as wide as the input, which is two at least."""
    width = max(square, 2) if square else 4
    n, m = (width, width) if square else (3 * width, 7)
    q = rng.standard_normal((n // width, width * (width - 1) // 2))
    return _case(OFT(q), rng, (*LEADING, n), (m, n))


def _hyperlora(rng: Rng, square: int | None) -> Case:
    """A linear generator, conditioned on two rows of one table."""
    generator, _, layer = generator_example(LinearGenerator, rng, square)
    return around(generator, condition_examples(rng)["pair"], layer, rng, square)


def _hyperlora_per_example(rng: Rng, square: int | None) -> Case:
    """Four examples of two tasks, so that rows of the table are asked for twice."""
    generator, _, layer = generator_example(LinearGenerator, rng, square)
    return around(generator, condition_examples(rng, 4)["task"], layer, rng, square)


EXAMPLES: dict[type, Callable[[Rng, int | None], Case]] = {
    DoRA: _dora,
    ColumnDoRA: _column_dora,
    ConvDoRA: _conv_dora,
    EmbeddingDoRA: _embedding_dora,
    LoRASum: _lora_sum,
    FanInFanOut: _fan_in_fan_out,
    BiasedLoRA: _biased,
    FusedLoRA: _fused,
    ConvLoRA: _conv,
    LoralibConvLoRA: _loralib_conv,
    HyperLoRA: _hyperlora,
    HyperLoRAPerExample: _hyperlora_per_example,
    AdaConvLoRA: _ada_conv,
    LoKr: _lokr,
    MiSS: _miss,
    Bat: _bat,
    OFT: _oft,
}
