"""The public test kit: gradient check, conformance checks, example inputs, tolerances.

The Hypothesis strategies are in `lora_ref.testing.strategies`, which alone imports Hypothesis.
"""

from .checks import ADAPTER_CHECKS, LAYER_CHECKS, assert_trees_close, check_library
from .examples import Case, Make, adapter_case, converted, function_case
from .gradcheck import gradcheck
from .tolerance import TOLERANCE, Mismatch, assert_close, relative_error

__all__ = [
    "ADAPTER_CHECKS",
    "LAYER_CHECKS",
    "TOLERANCE",
    "Case",
    "Make",
    "Mismatch",
    "adapter_case",
    "assert_close",
    "assert_trees_close",
    "check_library",
    "converted",
    "function_case",
    "gradcheck",
    "relative_error",
]
