"""All mutants."""

from . import mutants_attention, mutants_held_out, mutants_linear
from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *mutants_linear.MUTANTS,
    *mutants_attention.MUTANTS,
    *mutants_held_out.MUTANTS,
)
