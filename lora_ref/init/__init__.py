"""Initialisations: functions (W, …) -> (adapter, residual W).

The adapter on the residual is W, and the residual is W itself where the adapter starts at zero.
`scale` is s, of `scaling` or `stabilised_scaling`; LoRA's own starts are `LoRA.init` and
`LoRA.init_gaussian`.
"""

from .corda import corda_instruction, corda_knowledge, damped, sample_correlation
from .eva import around, eva, eva_from_covariance, whitened
from .eva_ranks import adjusted_alpha, components_of, redistributed
from .incremental import Components, components, cosines, with_batch
from .inputs_first import inputs_first
from .lora_ga import (
    Parts,
    alternating,
    drawn_parts,
    leading_to_A,
    leading_to_B,
    lora_ga,
    lora_ga_peft,
    stable_gain,
    weight_gain,
)
from .mica import mica
from .moments import Moments, moments, together
from .olora import olora
from .orthogonal import orthogonal
from .pissa import pissa, pissa_randomized
from .plain import plain_lora

__all__ = [
    "Components",
    "Moments",
    "Parts",
    "adjusted_alpha",
    "alternating",
    "around",
    "components",
    "components_of",
    "corda_instruction",
    "corda_knowledge",
    "cosines",
    "damped",
    "drawn_parts",
    "eva",
    "eva_from_covariance",
    "inputs_first",
    "leading_to_A",
    "leading_to_B",
    "lora_ga",
    "lora_ga_peft",
    "mica",
    "moments",
    "olora",
    "orthogonal",
    "pissa",
    "pissa_randomized",
    "plain_lora",
    "redistributed",
    "sample_correlation",
    "stable_gain",
    "together",
    "weight_gain",
    "whitened",
    "with_batch",
]
