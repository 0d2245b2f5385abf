"""The catalogue of known mistakes, one family a file: what each would make of a kernel's outputs.

The tuples here say which ones a kernel can have; each constructor of `oracles` attaches its own.
"""

from typing import Any

from ..oracle import Mistake
from . import names
from .attention import ATTENTION
from .bias import BIAS
from .dora import DORA
from .extent import OF_FACTORS, OF_PRODUCTS, last_output_zero, last_token_stale, last_token_zero
from .gradients import OF_GRADIENTS, OF_SCALED_GRADIENTS, averaged, last_token_of_gradients
from .layout import LAYOUT
from .modules import base_left_out, of_others
from .rotary import ROTARY
from .scale import SCALE

__all__ = ["names", "of_attention", "of_dora", "of_linear", "of_merge", "of_rotary"]

_OF_ROWS = (last_output_zero, last_token_zero, last_token_stale)


def of_linear(others: tuple[Any, ...] = ()) -> tuple[Mistake, ...]:
    """Those of a linear layer with LoRA; `others` are adapters that it could have mixed up."""
    here = (*SCALE, *LAYOUT, *OF_FACTORS, *OF_PRODUCTS, base_left_out, *BIAS, *OF_GRADIENTS)
    return (*here, *of_others(others))


def of_merge(others: tuple[Any, ...] = ()) -> tuple[Mistake, ...]:
    """Those of a merge, W' = W + s B A."""
    here = (*SCALE, *LAYOUT, *OF_FACTORS, base_left_out, *OF_SCALED_GRADIENTS)
    return (*here, *of_others(others))


def of_dora(others: tuple[Any, ...] = ()) -> tuple[Mistake, ...]:
    """Those of a linear layer with DoRA."""
    gradients = (*OF_SCALED_GRADIENTS, last_token_of_gradients, averaged)
    here = (*DORA, *SCALE, *LAYOUT, *OF_FACTORS, *_OF_ROWS, *BIAS, *gradients)
    return (*here, *of_others(others))


def of_attention() -> tuple[Mistake, ...]:
    """Those of attention."""
    return (*ATTENTION, *_OF_ROWS)


def of_rotary() -> tuple[Mistake, ...]:
    """Those of attention after a rotary embedding."""
    return (*ROTARY, *of_attention())
