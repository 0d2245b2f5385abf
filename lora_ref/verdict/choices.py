"""What a contract leaves open: the choices of an honest implementation, as one value.

Limits:
    Not every combination means something to every kernel: a choice that does not occur in one,
    such as recomputed weights where there is no softmax, changes nothing there.
"""

import enum
from dataclasses import dataclass, fields

from .accumulate import LIBRARY, Library, OwnOrder, is_native
from .contract import Contract
from .orders import AnyOrder, Blocked, Probable


class ScaleSite(enum.Enum):
    """Where a number factor of a product is applied."""

    RESULT = "where the formula has it, on the stored product"
    ACCUMULATOR = "on the accumulator, before the product is stored"
    LEFT = "on the left operand, which is stored again"
    RIGHT = "on the right operand, which is stored again"
    LATER = "on the result of the last product that the factor passes through"


class Fusion(enum.Enum):
    """What is kept in float32 until the output instead of being stored in between."""

    NOTHING = "every operation stores its result"
    ELEMENTWISE = "only operands of matrix products are stored"
    EVERYTHING = "nothing is stored before the output"


@dataclass(frozen=True)
class Choices:
    """One way to keep a contract.

    `alternative` is the index of the formula that an `either` evaluates, counted round if it has
    fewer; `recompute` takes attention weights as exp(z − logsumexp z) in the backward; `tiled`
    stores the sums of attention's gradients from tile to tile; `merged` takes the oracle's other
    route.
    """

    alternative: int = 0
    recompute: bool = False
    merged: bool = False
    order: OwnOrder = LIBRARY
    scale: ScaleSite = ScaleSite.RESULT
    fusion: Fusion = Fusion.NOTHING
    tiled: bool = False

    def __str__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = {f.name: f.default for f in fields(self)}
        changed = [
            f"{name} {value.name.lower() if isinstance(value, enum.Enum) else value}"
            for name, value in shown.items()
            if value != defaults[name]
        ]
        return ", ".join(changed) or "every choice as it comes first"

    def check(self, contract: Contract) -> None:
        """ValueError for a choice that the contract does not leave open."""
        forms, sites = contract.forms, contract.scale
        moved = self.scale in (ScaleSite.LEFT, ScaleSite.RIGHT)
        wrong = {
            "alternative": self.alternative > 0 and not forms.alternatives,
            "recompute": self.recompute and not forms.recomputed,
            "tiled": self.tiled and not forms.tiled,
            "merged": self.merged and not forms.merged,
            "merged = False": not self.merged and not forms.factored and forms.merged,
            "scale": (moved and not sites.operand)
            or (self.scale is ScaleSite.LATER and not sites.result),
        }
        for name, found in wrong.items():
            if found:
                raise ValueError(
                    f"Choices: {name} must be admitted by the contract {contract.name}, got {self}"
                )

    def order_for(self, contract: Contract, terms: int) -> OwnOrder | AnyOrder | Probable:
        """The order in which so many terms are added.

        NumPy's own where it can add on the accumulator and the contract does not state an order
        that NumPy does not keep; the contract's order there.

        Errors:
            ValueError if a sum of so many terms would be deeper than the contract admits.
        """
        if isinstance(self.order, Library):
            free = isinstance(contract.order, AnyOrder | Blocked | Probable)
            return self.order if free and is_native(contract.accumulate) else contract.order
        own, admitted = self.order.depth(terms), contract.order.depth(terms)
        if own > admitted and not isinstance(contract.order, Probable):
            raise ValueError(
                f"Choices: order must add {terms} terms at a depth of at most {admitted}, from "
                f"{contract.order} of the contract {contract.name}, got {self.order}, "
                f"whose depth is {own}"
            )
        return self.order
