"""PEFT's numbers of two layers in a row, recorded or live, against those of this library."""

import json
from dataclasses import replace

import numpy as np

from lora_ref.adapters import FanInFanOut, LoHa
from lora_ref.checkpoint import TensorSpec, dtype_name, write_safetensors
from lora_ref.checkpoint.inputs_first import inside
from lora_ref.checkpoint.tuners import open_adapter
from lora_ref.checkpoint.tuners.tuner import Module
from lora_ref.layers.linear import adapted_linear
from lora_ref.testing.tolerance import assert_close

P = "base_model.model."


def saved(arrays, config, directory):
    """The adapter of a record, in PEFT's two files."""
    directory.mkdir()
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    found = part(arrays, "adapter").items()
    given = [(TensorSpec(n, dtype_name(t.dtype), t.shape), t) for n, t in found]
    write_safetensors(directory / "adapter_model.safetensors", given, {"format": "pt"})
    return directory


def part(arrays, kind):
    return {n.removeprefix(f"{kind}/"): t for n, t in arrays.items() if n.startswith(f"{kind}/")}


def adapters_for(read, is_turned):
    """The adapter of each layer, in the layout of its base; None where there is none."""
    found = {}
    for path in "qv":
        # Of layers of both kinds the one flag of the file is that of the last: the base decides.
        adapter = inside(read.adapters.get(path))
        turned = is_turned and path == "q"
        if isinstance(adapter, LoHa):  # a divergence: PEFT rounds the scale to float32
            adapter = replace(adapter, scale=float(np.float32(adapter.scale)))
        found[path] = FanInFanOut(adapter) if turned and adapter is not None else adapter
    return found


def check(arrays, config, is_turned, directory):
    """Output, all gradients, and the merged weights of PEFT are those of this library."""
    read, base = open_adapter(saved(arrays, config, directory)), part(arrays, "base")
    found = adapters_for(read, is_turned)
    h, q_backward = adapted_linear(arrays["x"], base["q.weight"], found["q"], base["q.bias"])
    y, v_backward = adapted_linear(h, base["v.weight"], found["v"])
    assert_close(y, arrays["y"], "golden", "y")
    dh, dv = v_backward(arrays["dy"])
    dx, dq = q_backward(dh)
    assert_close(dx, arrays["dx"], "golden", "dx")
    gradients = {}
    for path, d in (("q", dq), ("v", dv)):
        if d is not None:
            d = getattr(d, "inner", d)
            written = read.tuner.write(Module(path, read.config), d)
            gradients |= {f"{P}{path}.{slot}": t for slot, t in written.items()}
    expected = part(arrays, "d_adapter")
    assert gradients.keys() == expected.keys()
    for name, t in gradients.items():
        assert_close(t, expected[name], "golden", f"gradient of {name}")
    merged = part(arrays, "merged")
    for path, adapter in found.items():
        W = base[f"{path}.weight"]
        W_merged = W if adapter is None else adapter.merge(W)
        assert_close(W_merged, merged[f"{path}.weight"], "golden", f"merged {path}.weight")
    b = found["q"].bias(base["q.bias"])[0]
    assert_close(b, merged["q.bias"], "golden", "merged q.bias")
    assert all(np.all(t != 0) for t in expected.values())
