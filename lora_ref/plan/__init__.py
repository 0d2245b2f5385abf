"""What an adapter on a model costs before anything is trained: numbers, bytes and FLOPs.

model = read_model("path/to/config.json")
plan(model, LowRank(8), targets=("q_proj", "v_proj")).memory.training
"""

from .choose import CAVEATS, Choice, Needs, choose, memory_answer
from .families import FAMILIES, gpt3, read_model
from .figures import Plan, plan
from .flops import Flops, count_flops
from .memory import DEFAULT_DTYPE, DTYPES, OPTIMIZERS, Memory, Optimizer, Quantized, base_bytes
from .method import Method, Tensors, numbers
from .methods import Adaptive, DoubleLowRank, Generated, LowRank, WeightDecomposed
from .model import ALL_LINEAR, Linear, Model

__all__ = [
    "ALL_LINEAR",
    "CAVEATS",
    "DEFAULT_DTYPE",
    "DTYPES",
    "FAMILIES",
    "OPTIMIZERS",
    "Adaptive",
    "Choice",
    "DoubleLowRank",
    "Flops",
    "Generated",
    "Linear",
    "LowRank",
    "Memory",
    "Method",
    "Model",
    "Needs",
    "Optimizer",
    "Plan",
    "Quantized",
    "Tensors",
    "WeightDecomposed",
    "base_bytes",
    "choose",
    "count_flops",
    "gpt3",
    "memory_answer",
    "numbers",
    "plan",
    "read_model",
]
