"""An oracle of every layer and every adapter of the library, with inputs on a grid."""

import numpy as np

from lora_ref.adapters import ADAPTERS
from lora_ref.testing.adapter_examples import adapter_example
from lora_ref.testing.layer_examples import LAYER_EXAMPLES, Call
from lora_ref.trees import map_arrays
from lora_ref.verdict.accumulate import Sequential, Split
from lora_ref.verdict.choices import Choices, Fusion, ScaleSite
from lora_ref.verdict.oracle import Oracle, is_real
from lora_ref.verdict.orders import Blocked

SEED = 20210617

CHOICES = [
    Choices(),
    Choices(alternative=1),
    Choices(recompute=True),
    Choices(order=Sequential()),
    Choices(order=Blocked(4)),
    Choices(order=Split(3)),
    *(Choices(scale=site) for site in ScaleSite if site is not ScaleSite.RESULT),
    *(Choices(fusion=fusion) for fusion in Fusion if fusion is not Fusion.NOTHING),
    Choices(1, True, False, Split(2), ScaleSite.LATER, Fusion.ELEMENTWISE),
]


def oracle_names():
    """The names that `oracle_of` knows."""
    adapters = [f"{cls.__name__}.{route}" for cls in ADAPTERS for route in ("apply", "weight")]
    return [*LAYER_EXAMPLES, *adapters]


def oracle_of(name, grid):
    """The oracle of an example, its inputs and its cotangent rounded to `grid`."""
    rng = np.random.default_rng(SEED)
    if name in LAYER_EXAMPLES:
        kernel, inputs, static = _layer(LAYER_EXAMPLES[name](rng))
    else:
        kernel, inputs, static = _adapter(*name.split("."), rng)
    inputs, static = map_arrays(lambda t: rounded(t, grid), (inputs, static))
    y = Oracle(kernel, inputs, static).reference()["y"]
    cotangent = rounded(np.asarray(rng.standard_normal(y.shape)), grid)
    return Oracle(kernel, inputs, static, cotangent)


def rounded(t, grid):
    return grid.round(t) if is_real(t) else t


def _layer(case):
    """Integers have no gradient: they are static."""
    call = case.target if isinstance(case.target, Call) else Call(case.target)
    given = {f"x{i}": t for i, t in enumerate(case.args)}
    static = {k: t for k, t in given.items() if isinstance(t, np.ndarray) and not is_real(t)}

    def kernel(*inputs, **static):
        whole, inputs = {}, iter(inputs)
        for k in given:
            whole[k] = static.pop(k) if k in static else next(inputs)
        value, backward = call.function(*whole.values(), **static)
        return value, backward

    inputs = {k: t for k, t in given.items() if k not in static}
    return kernel, inputs, {**static, **call.static}


def _adapter(cls, route, rng):
    """W is frozen, and so are an embedding's indices."""
    (cls,) = (c for c in ADAPTERS if c.__name__ == cls)
    case = adapter_example(cls, rng)
    x, W = case.args
    if route == "weight":
        return (lambda adapter, W: adapter.weight(W)), {"adapter": case.target}, {"W": W}
    if is_real(x):
        inputs = {"x": x, "adapter": case.target}
        return (lambda x, adapter, W: adapter.apply(x, W)), inputs, {"W": W}

    def adapter_alone(adapter, x, W):
        y, backward = adapter.apply(x, W)
        return y, lambda dy: backward(dy)[1]

    return adapter_alone, {"adapter": case.target}, {"x": x, "W": W}
