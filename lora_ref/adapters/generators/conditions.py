"""What a generator is conditioned on: a task, two languages, a user, a text, reference images.

Math:
    TaskId           c = E[i]
    LanguagePair     c = [E[source]; E[target]]
    UserEmbedding    c, a vector that is given or trained
    TextEmbedding    c = LayerNorm(V t + v)         t is a text encoder's vector
    ReferenceTokens  c̄ = (1/J) Σⱼ tⱼ,  c = c̄ / √(‖c̄‖² + ε)   by token, ε = 1e-8
        dc̄ = (dc − c ⟨c, dc⟩) / √(‖c̄‖² + ε),  dtⱼ = dc̄ / J
Shapes:
    E (v, k)   c (..., k), (..., 2 k) for a pair   t (..., d)   V (k, d)   tokens (J, T, k)
    Integers give c (k,), sequences of N integers c (N, k).
Errors:
    IndexError if an integer is not a row of the table; ValueError if the languages are not as many
    as each other.
Limits:
    The order of a pair matters, and one table serves both sides. A gradient adds up where an
    integer stands twice. Whether a gradient is used is the training loop's choice: that of t is
    what a text encoder would be trained with.
Source:
    TextEmbedding: SakanaAI/text-to-lora, src/hyper_llm_modulator/hyper_modulator.py, TaskEncoder.
    ReferenceTokens: bytedance/ComfyUI-HyperLoRA, hyperlora/modules.py, the end of
    Resampler.forward and norm_out; the mean comes first, then the norm.
"""

from dataclasses import dataclass

from ...arrays import Array, Backward, namespace
from ...shapes import shapes
from ...trees import with_leaves
from .base import Condition
from .pieces import Affine, Norm, rows_of

Ids = int | tuple[int, ...]


@shapes(E="v k")
@dataclass(frozen=True, eq=False)
class TaskId(Condition):
    """One row of a trained table, or one for each example."""

    E: Array
    ids: Ids

    def vector(self) -> tuple[Array, Backward]:
        """c = E[ids], and backward: dc -> dself."""
        c, rows_backward = rows_of("TaskId", "ids", self.E, self.ids)
        return c, lambda dc: with_leaves(self, E=rows_backward(dc))


@shapes(E="v k")
@dataclass(frozen=True, eq=False)
class LanguagePair(Condition):
    """From which language into which: two rows of a trained table."""

    E: Array
    source: Ids
    target: Ids

    def __post_init__(self) -> None:
        """There must be a target for every source."""
        super().__post_init__()
        counts = [None if isinstance(i, int) else len(i) for i in (self.source, self.target)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"LanguagePair: target must hold as many languages as source, "
                f"{self.source}, got {self.target}"
            )

    def vector(self) -> tuple[Array, Backward]:
        """c = [E[source]; E[target]], and backward: dc -> dself."""
        source, source_backward = rows_of("LanguagePair", "source", self.E, self.source)
        target, target_backward = rows_of("LanguagePair", "target", self.E, self.target)
        width = self.E.shape[1]

        def backward(dc):
            dE = source_backward(dc[..., :width]) + target_backward(dc[..., width:])
            return with_leaves(self, E=dE)

        return namespace(self.E).concat([source, target], axis=-1), backward


@shapes(c="... k")
@dataclass(frozen=True, eq=False)
class UserEmbedding(Condition):
    """The vector itself, of a user or of anything else."""

    c: Array

    def vector(self) -> tuple[Array, Backward]:
        """c, and backward: dc -> dself."""
        return self.c, lambda dc: with_leaves(self, c=dc)


@shapes(t="... d")
@dataclass(frozen=True, eq=False)
class TextEmbedding(Condition):
    """A text encoder's vector, projected and normalised."""

    t: Array
    project: Affine
    norm: Norm

    def vector(self) -> tuple[Array, Backward]:
        """c = LayerNorm(V t + v), and backward: dc -> dself."""
        projected, project_backward = self.project(self.t)
        c, norm_backward = self.norm(projected)

        def backward(dc):
            dprojected, dnorm = norm_backward(dc)
            dt, dproject = project_backward(dprojected)
            return with_leaves(self, t=dt, project=dproject, norm=dnorm)

        return c, backward


@shapes(tokens="J T k")
@dataclass(frozen=True, eq=False)
class ReferenceTokens(Condition):
    """The mean of several references' tokens, each at length one."""

    tokens: Array
    eps: float = 1e-8

    def vector(self) -> tuple[Array, Backward]:
        """c (T, k), and backward: dc -> dself."""
        xp, count = namespace(self.tokens), self.tokens.shape[0]
        mean = xp.sum(self.tokens, axis=0) / count
        size = xp.sqrt(xp.sum(mean * mean, axis=-1, keepdims=True) + self.eps)  # (T, 1)
        c = mean / size

        def backward(dc):
            dmean = (dc - c * xp.sum(c * dc, axis=-1, keepdims=True)) / size
            dtokens = xp.broadcast_to(dmean / count, self.tokens.shape)
            return with_leaves(self, tokens=dtokens)

        return c, backward
