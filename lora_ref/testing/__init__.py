"""The public test kit: gradient check, conformance checks, example inputs, tolerances.

The Hypothesis strategies are in `lora_ref.testing.strategies`, which alone imports Hypothesis.
"""

from .checks import (
    ADAPTER_CHECKS,
    LAYER_CHECKS,
    assert_trees_close,
    check_apply_gradient,
    check_dtype,
    check_layer_gradient,
    check_leading_axes,
    check_library,
    check_linear_backward,
    check_own_type,
    check_pure,
    check_routes_agree,
    check_weight_gradient,
)
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
    "check_apply_gradient",
    "check_dtype",
    "check_layer_gradient",
    "check_leading_axes",
    "check_library",
    "check_linear_backward",
    "check_own_type",
    "check_pure",
    "check_routes_agree",
    "check_weight_gradient",
    "converted",
    "function_case",
    "gradcheck",
    "relative_error",
]
