"""The emulated reading: what an honest implementation of a contract would compute.

The kernel's own text runs on arrays that round as the contract says, with the choices that the
contract leaves open made one way. Nothing is drawn at random, so a result can be repeated.

Limits:
    One implementation keeps to one set of choices. Mixtures, another order in each product, are
    admitted too and are not emulated.
"""

from typing import Any

import numpy as np

from ..trees import leaves
from .choices import Choices
from .claims import check_claim
from .contract import Contract
from .emulated_array import Emulated
from .emulated_namespace import EmulatedNamespace
from .oracle import Oracle, is_real


def emulate(
    oracle: Oracle, contract: Contract, choices: Choices | None = None
) -> dict[str, np.ndarray]:
    """Every output by its name, as float64 numbers of the contract's output grid.

    Errors:
        ValueError if an input is no number of `contract.inputs`, if the contract does not leave
        open what `choices` choose, or if the oracle has no merged route and they want it;
        TypeError for what is no oracle or no contract.
    """
    check_claim("emulate", oracle, contract)
    chosen = choices or Choices()
    xp = EmulatedNamespace(contract, chosen)
    if chosen.merged and oracle.merged is None:
        raise ValueError("emulate: oracle must have a merged kernel for Choices.merged, got none")
    _check_inputs(oracle, contract)
    with np.errstate(all="ignore"):  # overflow to inf, and NaN after it, are legal results
        found = oracle.outputs(xp.wrap, oracle.merged if chosen.merged else None)
        return {name: contract.output.round(_values(value)) for name, value in found.items()}


def _values(value: Any) -> np.ndarray:
    return value.values if isinstance(value, Emulated) else np.asarray(value, np.float64)


def _check_inputs(oracle: Oracle, contract: Contract) -> None:
    for path, leaf in leaves(oracle.on_grid):
        if is_real(leaf) and not np.all(fits := contract.inputs.holds(leaf.astype(np.float64))):
            first = tuple(int(i) for i in np.argwhere(~fits)[0])
            raise ValueError(
                f"emulate: {path} must hold numbers of {contract.inputs.name} from the contract "
                f"{contract.name}, got {leaf[first]} at {first}"
            )
