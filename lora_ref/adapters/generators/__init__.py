"""Generators write A and B from a condition: the hypernetworks of `HyperLoRA`.

`base` is the contract, `pieces` and `conditions` are what most of them are made of. `linear`, `mlp`
and `components` are general; `dialect`, `basis`, `description`, `clipped` and `text` are those of
five published systems, each of which is called HyperLoRA or a hypernetwork for LoRA.
"""

from .base import Condition, Generator
from .basis import Basis, BasisGenerator
from .clipped import ClippedGenerator
from .components import ComponentGenerator
from .conditions import LanguagePair, ReferenceTokens, TaskId, TextEmbedding, UserEmbedding
from .description import DescriptionGenerator
from .dialect import DialectGenerator
from .linear import LinearGenerator
from .mlp import MLPGenerator
from .pieces import Affine, Heads, Network, Norm
from .text import TextGenerator

__all__ = [
    "Affine",
    "Basis",
    "BasisGenerator",
    "ClippedGenerator",
    "ComponentGenerator",
    "Condition",
    "DescriptionGenerator",
    "DialectGenerator",
    "Generator",
    "Heads",
    "LanguagePair",
    "LinearGenerator",
    "MLPGenerator",
    "Network",
    "Norm",
    "ReferenceTokens",
    "TaskId",
    "TextEmbedding",
    "TextGenerator",
    "UserEmbedding",
]
