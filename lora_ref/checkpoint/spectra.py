"""The updates of an adapter's file, matrix by matrix, and their spectra.

    linear, embedding        one pair of factors
    convolution              the kernel as a matrix (m, n·kernel); B of a grouped one has blocks
    parameter, E experts     a pair for each expert: PATH[0], PATH[1], ...

Units:   float64, whatever the file's type: a stored factor is exact there
Errors:  CheckpointError, one line that names file and module, for an update whose singular values
         float64 cannot hold
Limits:  the spectrum of an embedding's update is that of its transpose, hence the same, and its
         shape is that of the base's weight, (v, d); what the file replaces whole
         (modules_to_save, biases, token rows) has none
Source:  PEFT 0.21.2, tuners/lora/layer.py; the layouts: `peft_modules`
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..adapters.experts import from_peft
from ..adapters.lora import LoRA
from ..layers.convolution import ungrouped
from ..rank.measures import Measures, measures
from ..rank.spectrum import spectrum
from .errors import CheckpointError, refusal, shown
from .peft import PeftAdapter
from .peft_modules import Kind, LoraModule


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """The singular values of one update s B A (m, n) of rank r at the most."""

    name: str
    shape: tuple[int, int]
    rank: int
    scale: float
    spectrum: np.ndarray

    @property
    def measures(self) -> Measures:
        """Its ranks."""
        return measures(self.spectrum, self.shape)


def spectra(adapter: PeftAdapter) -> tuple[LayerSpectrum, ...]:
    """One for each update, in the order of the file; factors are held for one module at a time."""
    return tuple(layer for module in adapter.modules for layer in _layers(module, adapter.path))


def matrices(module: LoraModule) -> tuple[LoRA, ...]:
    """The updates of one module as pairs of matrices in float64: one, or one for each expert."""
    A, B = (np.asarray(t, dtype=np.float64) for t in (module.A, module.B))
    if module.kind is Kind.PARAMETER:
        stack = from_peft(A, B, A.shape[0] // module.rank, module.scale)
        return tuple(LoRA(a, b, module.scale) for a, b in zip(stack.A, stack.B, strict=True))
    if module.kind is Kind.CONVOLUTION:
        groups = groups_of(module)
        B = ungrouped(B, groups) if groups > 1 else B
        A, B = A.reshape(len(A), -1), B.reshape(len(B), -1)
    return (LoRA(A, B, module.scale),)


def groups_of(module: LoraModule) -> int:
    """Groups of a convolution, as the shape of its B says."""
    return module.rank // module.B.shape[1] if module.kind is Kind.CONVOLUTION else 1


@contextmanager
def decomposed(module: LoraModule, path: object) -> Iterator[None]:
    """Around what is computed of a module of the file `path`: whatever fails there names both."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        problem = f"has an update that cannot be decomposed: {error}"
        raise refusal(path, f"module {shown(module.name)} {problem}") from error


def _layers(module: LoraModule, path: object) -> Iterator[LayerSpectrum]:
    pairs = matrices(module)
    for e, lora in enumerate(pairs):
        name = module.name if len(pairs) == 1 else f"{module.name}[{e}]"
        shape = lora.B.shape[0], lora.A.shape[1]
        shape = shape[::-1] if module.kind is Kind.EMBEDDING else shape
        with decomposed(module, path):
            sigma = spectrum(lora)
        yield LayerSpectrum(name, shape, module.rank, module.scale, sigma)
