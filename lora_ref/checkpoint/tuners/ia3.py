"""IA3 in PEFT's layout.

    PATH.ia3_l (m, 1)   l of the outputs          PATH.ia3_l (1, n)   l of the inputs

A module is of the second kind where feedforward_modules names it; the shape says so too.

Limits:  l of a layer of one input and one output has no shape that tells, and is refused. An
         expression for feedforward_modules, in place of a list of names, is left to the shape
Source:  PEFT 0.21.2, tuners/ia3/layer.py, IA3Layer.update_layer; tuners/ia3/model.py,
         IA3Model._check_target_module_feedforward
"""

from collections.abc import Mapping
from typing import Any

from ...adapters.base import Adapter
from ...adapters.ia3 import IA3, InputIA3
from ...arrays import namespace
from ..config_fields import Field, all_of, is_text, with_targets
from .tuner import ORIENTATION, Arrays, Module, Tuner, missing, wrong_adapter


def _read(module: Module, arrays: Arrays, shared: Arrays) -> IA3 | InputIA3:
    missing(module, arrays, ("ia3_l",))
    t = arrays["ia3_l"]
    if t.ndim != 2 or 1 not in t.shape or t.shape == (1, 1) or 0 in t.shape:
        raise module.refused(f"must have ia3_l of shape (m, 1) or (1, n), got {list(t.shape)}")
    of_inputs, names = t.shape[0] == 1, module.settings["feedforward_modules"]
    if not is_text(names) and of_inputs != any(module.path.endswith(name) for name in names):
        need = "(1, n) if feedforward_modules names it and else (m, 1)"
        raise module.refused(f"must have ia3_l of shape {need}, got {list(t.shape)}")
    return (InputIA3 if of_inputs else IA3)(t.reshape(t.size))


def _write(module: Module, adapter: Adapter) -> Arrays:
    if not isinstance(adapter, IA3 | InputIA3):
        raise wrong_adapter(module, adapter, "IA3 or InputIA3")
    size = adapter.l.shape[0]
    shape = (size, 1) if isinstance(adapter, IA3) else (1, size)
    return {"ia3_l": namespace(adapter.l).reshape(adapter.l, shape)}


def _completed(config: Mapping[str, Any], modules: Mapping[str, Adapter]) -> dict[str, Any]:
    """Both lists of names; PEFT wants the one of feedforward_modules inside target_modules."""
    names: Any = config.get("feedforward_modules")
    targets: Any = config.get("target_modules")
    found = [path for path, adapter in modules.items() if isinstance(adapter, InputIA3)]
    if names is None and all_of(is_text)(targets):
        found = [name for name in targets if any(path.endswith(name) for path in found)]
    if targets is None and all_of(is_text)(names):
        others = (path for path in modules if not any(path.endswith(name) for name in names))
        return with_targets(config, {*names, *others})
    more = {"feedforward_modules": found} if names is None else {}
    return with_targets({**config, **more}, modules)


def _is_names(value: Any) -> bool:
    return is_text(value) or all_of(is_text)(value)


TUNER = Tuner(
    "IA3",
    {
        "feedforward_modules": Field([], _is_names, "a name or a list of names", True),
        **ORIENTATION,
    },
    ("ia3_l",),
    _read,
    _write,
    completed=_completed,
)
