"""Text-to-LoRA, first called HyperLoRA: a text, a depth and a kind of module give A and B.

Math:
    z  = [c; LN(E[depth]); LN(F[kind])]
    z₁ = silu(V₂ silu(V₁ z))                     mixer, all maps affine
    z₂ = z₁ + silu(V₄ silu(V₃ LN(z₁)))           first residual block
    z₃ = z₂ + silu(V₆ silu(V₅ LN(z₂)))           second residual block
    h  = silu(V₈ silu(V₇ LN(z₃)))
    A  = P_kind h + p_kind        B = Q_kind h + q_kind
Shapes:
    c (..., k)   E (L, e)   F (K, f)   layer: (depth, kind)
    A (..., r, n)   B (..., m, r), with n and m of the kind of module
Units:
    s = α/r, or α/√r where the adapter is rank-stabilised.
Init:
    Heads as `pieces.Heads`, that is B = 0 and A as LoRA's for every text. As published: heads of
    zeros whose bias is the start of a LoRA, for training on tasks.
Errors:
    IndexError if the depth or the kind is not in its table; ValueError if there are not as many
    heads as kinds.
Limits:
    The published head writes B's numbers as (r, m), rank first; here Q is (m, r, h), so a
    checkpoint's second part is permuted. Dropout (0.05 between the maps) is left out, as in its
    evaluation. Left out too: a learned offset that is added to A and B, heads shared by A and B,
    and the generation of one rank at a time (that is `components`).
Source:
    Charakorn et al. 2024, "Instant Transformer Adaption via HyperLoRA", openreview TR9668ZiHP, and
    2025, "Text-to-LoRA", arXiv:2506.06105; SakanaAI/text-to-lora at 8ba7749,
    src/hyper_llm_modulator/hyper_modulator.py (HyperModulator, MLPResidualBlock) and hooks.py
    (add_lora_hooks), with its defaults. The encoder of the text is `conditions.TextEmbedding`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...arrays import Array, Backward
from ...layers.activations import silu
from ...layers.combinators import chain, fixed, residual
from ...shapes import shapes
from ...trees import with_leaves, zeros_like
from .base import Generator, check_width
from .pieces import Heads, Norm, joined, rows_of

Layer = tuple[int, int]


def _given(x: Array, piece: Callable[[Array], Any]) -> Any:
    """A piece that holds its own parameters, as a stage."""
    return piece(x)


_MAPS = (_given, fixed(silu), _given, fixed(silu))
_TRUNK = chain(
    chain(*_MAPS),
    residual(chain(_given, *_MAPS)),
    residual(chain(_given, *_MAPS)),
    chain(_given, *_MAPS),
)


@shapes(E="L e", F="K f")
@dataclass(frozen=True, eq=False)
class TextGenerator(Generator):
    """A trunk for all layers and one pair of heads for each kind of module.

    `trunk` holds, in order, the parameters of the mixer (an Affine, None, an Affine, None), and of
    the two blocks and the last part (a Norm, an Affine, None, an Affine, None).
    """

    E: Array
    F: Array
    depth_norm: Norm
    kind_norm: Norm
    trunk: tuple[Any, ...]
    heads: tuple[Heads, ...]

    def __post_init__(self) -> None:
        """Every kind has its heads."""
        super().__post_init__()
        if len(self.heads) != self.F.shape[0]:
            raise ValueError(
                f"TextGenerator: heads must hold {self.F.shape[0]}, one for each row of F, "
                f"got {len(self.heads)}"
            )

    @shapes(c="... k")
    def generate(self, c: Array, layer: Layer) -> tuple[tuple[Array, Array], Backward]:
        """(A, B), and backward: (dA, dB) -> (dθ, dc)."""
        depth, kind = layer
        z, features_backward = self._features(c, depth, kind)
        h, trunk_backward = _TRUNK(z, self.trunk)
        factors, heads_backward = self.heads[kind].write(h)

        def backward(dA, dB):
            dh, own = heads_backward(dA, dB)
            dz, dtrunk = trunk_backward(dh)
            dc, dfeatures = features_backward(dz)
            dheads = tuple(own if i == kind else zeros_like(t) for i, t in enumerate(self.heads))
            return with_leaves(self, trunk=dtrunk, heads=dheads, **dfeatures), dc

        return factors, backward

    def _features(self, c: Array, depth: int, kind: int) -> tuple[Array, Backward]:
        """z, and backward: dz -> (dc, the gradients of the tables and their norms by name)."""
        e, E_backward = rows_of("TextGenerator", "depth", self.E, depth)
        f, F_backward = rows_of("TextGenerator", "kind", self.F, kind)
        e, depth_norm_backward = self.depth_norm(e)
        f, kind_norm_backward = self.kind_norm(f)
        check_width("TextGenerator", c, self.trunk[0][0].V.shape[1], e.shape[0] + f.shape[0])
        with_depth, depth_backward = joined(c, e)
        z, kind_backward = joined(with_depth, f)

        def backward(dz):
            d, df = kind_backward(dz)
            dc, de = depth_backward(d)
            de, ddepth_norm = depth_norm_backward(de)
            df, dkind_norm = kind_norm_backward(df)
            tables = {"E": E_backward(de), "F": F_backward(df)}
            return dc, {**tables, "depth_norm": ddepth_norm, "kind_norm": dkind_norm}

        return z, backward
