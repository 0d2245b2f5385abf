"""Tier 0: tests with zero tolerance, for whoever may choose the inputs of his own function.

    failures = exact.lora_linear_tests(mine, BFLOAT16, adapt=to_bfloat16)
    exact.assert_none(failures)

Inputs are chosen so that the right result is exact in every order of operations and every fusion,
or is exactly one row of v; then any other number is a bug, at any precision. Each `…_tests`
function runs a tuple of tests, in reading order, and returns `Failure`s that say which bug is
meant; the docstring of its module says how it calls yours. PROPERTIES are what correct code may
lack: run them with `tests=`.

lora_linear_tests       y = x Wᵀ + s (x Aᵀ) Bᵀ + b and its gradients
merged_weight_tests     W' = W + s B A
dora_tests, embedding_tests, fused_tests
mixed_batch_tests       one adapter a token, or none
attention_tests         masks, heads, scale, and the gradients
paged_attention_tests   a cache of keys and values in pages
exact_values            any oracle made of sums and products, with `exact_round` for its inputs
"""

from . import attention, linear
from .attention import ATTENTION_TESTS, attention_tests
from .draw import NotExact, Round, exact_round, quanta
from .failure import Failure, Implementation, Mismatch, assert_none, run
from .linear import LORA_LINEAR_TESTS, MERGED_TESTS, lora_linear_tests, merged_weight_tests
from .mixed import MIXED_TESTS, mixed_batch_tests
from .others import dora_tests, embedding_tests, fused_tests
from .paged import PAGED_TESTS, paged_attention_tests
from .products import ProductsCase, exact_values

LINEAR_PROPERTIES = linear.PROPERTIES
ATTENTION_PROPERTIES = attention.PROPERTIES

__all__ = [
    "ATTENTION_PROPERTIES",
    "ATTENTION_TESTS",
    "LINEAR_PROPERTIES",
    "LORA_LINEAR_TESTS",
    "MERGED_TESTS",
    "MIXED_TESTS",
    "PAGED_TESTS",
    "Failure",
    "Implementation",
    "Mismatch",
    "NotExact",
    "ProductsCase",
    "Round",
    "assert_none",
    "attention_tests",
    "dora_tests",
    "embedding_tests",
    "exact_round",
    "exact_values",
    "fused_tests",
    "lora_linear_tests",
    "merged_weight_tests",
    "mixed_batch_tests",
    "paged_attention_tests",
    "quanta",
    "run",
]
