"""Bytes of the base, of what is trained, of its gradients, of the optimizer and of a checkpoint.

Math:
    quantized weight   bits + 32 / block bits a number, or with constants quantized again
                       bits + 8 / block + 32 / (256 block): 4.5 and 4.127 at 4 bits, blocks of 64
    gradients          as many as are trained, in their dtype
    optimizer          SGD 0, momentum 1, Adam 2 numbers each; in 8 bits 1 byte and 4 / 256 each
Units:
    Bytes, decimal: 1 GB is 10⁹.
Errors:
    ValueError for block sizes and bits that are no positive integers.
Limits:
    Model states only. Activations, workspaces, the allocator's gaps and paging are left out.
    States have the dtype of what they are for, as PyTorch's; a float32 copy of half precision
    weights, which mixed precision trainers keep, would be `Optimizer(3)` in effect.
Source:
    Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, section 3: 0.5 bits a parameter for constants
    in blocks of 64, 0.127 after double quantization, which saves 0.373. bitsandbytes 0.50.2,
    functional.py, quantize_4bit, and optim/optimizer.py: blocks of 256, and tensors of fewer than
    4096 numbers keep float32 states. Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..values import checked_count
from .method import Tensors
from .model import Linear, Model

DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
DEFAULT_DTYPE = "bfloat16"  # of a base of which nothing says another
CONSTANTS_BLOCK = 256  # constants that share one of the second level


@dataclass(frozen=True)
class Quantized:
    """A base in `bits` bits with one constant a block; `double`: the constants in 8 bits."""

    bits: int = 4
    block: int = 64
    double: bool = True

    def __post_init__(self) -> None:
        """Sizes are positive integers."""
        for name in ("bits", "block"):
            checked_count("Quantized", name, getattr(self, name), 1)

    @property
    def constant_bits(self) -> float:
        """Bits of constants for one number of a large weight.

        >>> Quantized(double=False).constant_bits, round(Quantized().constant_bits, 3)
        (0.5, 0.127)
        """
        if self.double:
            return 8 / self.block + 32 / (CONSTANTS_BLOCK * self.block)
        return 32 / self.block

    def bytes(self, linear: Linear) -> int:
        """Bytes of one weight, its last blocks whole."""
        size = linear.m * linear.n
        blocks = -(-size // self.block)
        constants = blocks + 4 * -(-blocks // CONSTANTS_BLOCK) if self.double else 4 * blocks
        return -(-size * self.bits // 8) + constants


def base_bytes(model: Model, width: int, quantized: Quantized | None = None) -> int:
    """The frozen model in numbers of `width` bytes, linear weights but the head quantized."""
    if quantized is None:
        return width * model.parameters
    inner = [x for x in model.linears if not x.head]
    rest = model.parameters - sum(x.parameters for x in inner)
    return width * rest + sum(x.count * quantized.bytes(x) for x in inner)


@dataclass(frozen=True)
class Optimizer:
    """`states` numbers for each that is trained, of its dtype or in 8 bits with constants."""

    states: int
    eight_bit: bool = False

    def bytes(self, tensors: Iterable[Tensors], width: int) -> int:
        """Bytes of the states of tensors of `width` bytes a number."""
        return sum(t.count * self._of_one(t.size, width) for t in tensors)

    def _of_one(self, size: int, width: int) -> int:
        if not self.eight_bit:
            return self.states * size * width
        if size < 4096:
            return self.states * size * 4
        return self.states * (size + 4 * -(-size // 256))


OPTIMIZERS = {
    "sgd": Optimizer(0),
    "momentum": Optimizer(1),
    "adam": Optimizer(2),
    "adamw": Optimizer(2),
    "adam8bit": Optimizer(2, eight_bit=True),
    "adamw8bit": Optimizer(2, eight_bit=True),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of the model's states in training, and of what is saved for a task."""

    base: int
    trained: int
    gradients: int
    optimizer: int
    checkpoint: int

    @property
    def training(self) -> int:
        """All but the checkpoint, which is on disk."""
        return self.base + self.trained + self.gradients + self.optimizer
