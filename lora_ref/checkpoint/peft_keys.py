"""The keys of an adapter's file: what a factor's key says, and PEFT's wrappers in a name.

    base_model.model.PATH.lora_A.weight              A, as the weight of a linear layer or a kernel
    base_model.model.PATH.lora_B.weight, .bias       B and β
    base_model.model.PATH.lora_embedding_A, _B       A and B of an embedding, without a suffix
    base_model.model.PATH.lora_A.default.weight      the same before PEFT took its name out

Source:  PEFT 0.21.2, tuners/tuners_utils.py, _remove_adapter_name_from_state_dict_key
"""

import re
from dataclasses import dataclass

PREFIX = "base_model.model."
NESTED = "base_layer"
_FACTOR = re.compile(
    r"(?:(?P<place>.+)\.)?lora_(?:"
    r"(?P<factor>[AB])(?:\.(?P<infix>[^.]+))?\.(?P<leaf>weight|bias)|"
    r"embedding_(?P<embedding>[AB])(?:\.(?P<embedding_infix>[^.]+))?)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Factor:
    """What a key says: the place of its module, the slot (A, B or beta), the adapter's name."""

    place: str
    slot: str
    is_embedding: bool
    infix: str | None


def parse_key(name: str) -> Factor | None:
    """Return what the key `name` says if it is a factor's, else None.

    >>> parse_key("base_model.model.layers.0.q_proj.lora_B.bias")
    Factor(place='layers.0.q_proj', slot='beta', is_embedding=False, infix=None)
    """
    found = _FACTOR.fullmatch(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    if found is None:
        return None
    place = found["place"] or ""
    if found["embedding"]:
        return Factor(place, found["embedding"], True, found["embedding_infix"])
    if found["leaf"] == "bias":
        return Factor(place, "beta", False, found["infix"]) if found["factor"] == "B" else None
    return Factor(place, found["factor"], False, found["infix"])


def without_nesting(place: str) -> str:
    """Return the name in the base model of what PEFT names `place`."""
    return ".".join(part for part in place.split(".") if part != NESTED)
