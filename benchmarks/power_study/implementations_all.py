"""All correct implementations, of the libraries that are installed."""

import importlib
import importlib.util

from .cases import Case
from .implementation import Implementation

MODULES = {
    "implementations": "torch",
    "implementations_dora": "torch",
    "implementations_attention": "torch",
    "implementations_peft": "peft",
    "implementations_jax": "jax",
    "implementations_emulated": "numpy",
}


def all_implementations(modules: tuple[str, ...] = tuple(MODULES)) -> tuple[Implementation, ...]:
    """Those of the named modules, without the ones whose library is not here."""
    found: list[Implementation] = []
    for name in modules:
        if importlib.util.find_spec(MODULES[name]):
            found += importlib.import_module(f"{__package__}.{name}").IMPLEMENTATIONS
    return tuple(found)


def siblings(case: Case) -> tuple[Implementation, ...]:
    """PyTorch's implementations of a case, for mutants to be planted in."""
    ours = all_implementations(tuple(n for n, package in MODULES.items() if package == "torch"))
    return tuple(one for one in ours if one.takes(case))


def eager(case: Case) -> Implementation:
    """The plain one of each kernel, that flash-attention's rule takes for its baseline."""
    return siblings(case)[0] if case.kind != "dora_linear" else _first_of_dora(case)


def _first_of_dora(case: Case) -> Implementation:
    return next(one for one in siblings(case) if one.name.startswith("m / ‖V‖"))
