"""The roundings that a contract admits, in words."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .contract import Contract


def explained(contract: "Contract") -> str:
    """One a line; what concerns one kind of kernel alone says so."""
    c = contract
    lines = [
        str(c),
        f"inputs are numbers of {c.inputs.name}, taken exactly",
        *([f"matrix products round their operands to {c.load.name}"] if c.load else []),
        f"sums of products: {c.order}, every addition rounded to {c.accumulate}",
        f"intermediates: rounded to {c.store.name} when written, which fused code may skip",
        f"results: rounded to {c.output.name}",
        f"exp, log, tanh and erf: {c.exp_ulps:g} ulps of {c.accumulate.grid.name}",
        *_scale(c),
        *_forms(c),
    ]
    return "\n  ".join(lines)


def _scale(contract: "Contract") -> list[str]:
    sites = ["where the formula has it"]
    sites += ["an operand of the product that it multiplies"] if contract.scale.operand else []
    sites += ["that product once it is stored"] if contract.scale.result else []
    lines = [f"a number factor: {', or on '.join(sites)}"]
    if contract.scale.operand:
        lines += ["  in s (x Aᵀ) Bᵀ: on x Aᵀ or B, never on x or A, upstream of a stored value"]
    held = contract.scale.held_on
    return lines if held.precision == 53 else [*lines, f"the factor itself is a {held.name}"]


def _forms(contract: "Contract") -> list[str]:
    forms = contract.forms
    texts = (
        ("form of a layer: y = x Wᵀ + s (x Aᵀ) Bᵀ", forms.factored),
        ("form of a layer: y = x W'ᵀ with W' stored", forms.merged),
        ("form of a merge: W' = (W + ½ s BA) + ½ s BA", forms.merged),
        ("form: any of several equal formulas of an intermediate", forms.alternatives),
        ("form of attention: weights again from a stored logsumexp", forms.recomputed),
        ("form of attention: gradients summed in tiles, stored in between", forms.tiled),
        ("form: a product summed onto another term in the accumulator (addmm)", forms.onto),
    )
    return [text for text, admitted in texts if admitted]
