"""The public test kit: gradient check, conformance checks, verdicts, examples, tolerances.

Each name is imported when it is first asked for: pytest loads `lora_ref.testing.plugin` in every
run, whether or not a test uses it. The Hypothesis strategies are in `lora_ref.testing.strategies`,
`case_strategies` and `array_strategies`, which alone import Hypothesis.
"""

import typing

from .. import late

if typing.TYPE_CHECKING:
    from ..mismatch import Mismatch
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
    from .gradient_check import gradcheck
    from .matches import assert_matches
    from .tolerance import TOLERANCE, assert_close, relative_error

_HOMES = {
    "checks": (
        "ADAPTER_CHECKS",
        "LAYER_CHECKS",
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
    ),
    "examples": ("Case", "Make", "adapter_case", "converted", "function_case"),
    "gradient_check": ("gradcheck",),
    ".mismatch": ("Mismatch",),
    "matches": ("assert_matches",),
    "tolerance": ("TOLERANCE", "assert_close", "relative_error"),
}

__all__ = [
    "ADAPTER_CHECKS",
    "LAYER_CHECKS",
    "TOLERANCE",
    "Case",
    "Make",
    "Mismatch",
    "adapter_case",
    "assert_close",
    "assert_matches",
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

__getattr__, __dir__ = late.attributes(__name__, late.homes(_HOMES))
