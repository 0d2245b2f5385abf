"""One case of PEFT's initialisations, recorded or run just now, against ours."""

import numpy as np

from lora_ref.adapters import FanInFanOut
from lora_ref.init import (
    Parts,
    alternating,
    components,
    corda_instruction,
    corda_knowledge,
    damped,
    inputs_first,
    leading_to_A,
    leading_to_B,
    lora_ga_peft,
    mica,
    olora,
    orthogonal,
    pissa,
    pissa_randomized,
    sample_correlation,
    stable_gain,
    with_batch,
)
from lora_ref.init.decomposition import residual, svd
from lora_ref.testing.tolerance import assert_close


class Replayed:
    """A generator that gives draws that were made elsewhere."""

    def __init__(self, draws):
        self.draws = list(draws)

    def standard_normal(self, size):
        found = self.draws.pop(0)
        assert found.shape == tuple(size)
        return found


def check_case(fields, arrays, kind):
    """Everything that PEFT made in this case is what ours makes, up to the signs of components."""
    if fields["init"] == "eva":
        return check_eva(fields, arrays, kind)
    W, s = arrays["W"], fields["scaling"]
    start = (lambda W: initialise(W, fields, arrays, kind)) if fields["conv1d"] else None
    adapter, W_res = inputs_first(W, start) if start else initialise(W, fields, arrays, kind)
    lora = adapter.inner if isinstance(adapter, FanInFanOut) else adapter
    is_pair = fields["init"] != "lora_ga"
    expect_factors(lora, arrays["A"], arrays["B"], kind, fields["init"], is_pair)
    assert_close(adapter.merge(W_res), W, kind, "W_res + s B A")
    if is_pair:
        return assert_close(W_res, arrays["W_res"], kind, "W_res")
    theirs = type(lora)(arrays["A"], arrays["B"], s)  # its terms may differ in sign from ours
    stored = W.T if fields["conv1d"] else W
    expected = arrays["W_res"].T if fields["conv1d"] else arrays["W_res"]
    return assert_close(residual(stored, theirs), expected, kind, "W_res")


def initialise(W, fields, arrays, kind):
    """Ours, told what PEFT was told."""
    init, rank, s = fields["init"], fields["r"], fields["scaling"]
    draws = [arrays[f"draw{i}"] for i in range(3) if f"draw{i}" in arrays]
    if init.startswith("pissa_niter_"):
        rounds = int(init.removeprefix("pissa_niter_"))
        return pissa_randomized(W, rank, s, Replayed(draws), iterations=rounds)
    if init == "orthogonal":
        return orthogonal(W, rank, s, Replayed(draws))
    if init == "corda":
        assert_close(
            sample_correlation(arrays[f"x{i}"] for i in range(3)), arrays["C"], kind, "correlation"
        )
        mode = {"ipm": corda_instruction, "kpm": corda_knowledge}[fields["method"]["corda_method"]]
        return mode(W, damped(arrays["C"]), rank, s)
    if init == "lora_ga":
        return from_gradient(W, fields, arrays, draws)
    return {"pissa": pissa, "olora": olora, "mica": mica}[init](W, rank, s)


def from_gradient(W, fields, arrays, draws):
    rank, s, method = fields["r"], fields["scaling"], fields["method"]
    G = arrays["G"].T if fields["conv1d"] else arrays["G"]
    parts = {"ArB2r": leading_to_A, "A2rBr": leading_to_B, "ArBr": alternating}
    if method["direction"] == "random":
        [order] = [draw for draw in draws if draw.ndim == 1]
        one = tuple(int(i) for i in order[:rank])
        chosen = Parts(one, one)
    else:
        chosen = parts[method["direction"]](rank)
    gains = {
        "stable": lambda: {"gain_B": stable_gain(arrays["W"].shape[0])},
        "unit": dict,
        "gd_scale": lambda: {"gain_A": 1 / s, "gain_B": 1 / s},
        "weight_svd": lambda: {"gain_B": largest(W, 0) / largest(G, chosen.B[0])},
    }
    return lora_ga_peft(W, G, rank, s, parts=chosen, **gains[method["scale"]]())


def largest(t, i):
    """The i-th singular value."""
    return float(svd("svd", "t", t)[1][i])


def expect_factors(lora, A, B, kind, what, is_pair=True):
    """The same rows of A and columns of B, each up to its sign, and the same sign if a pair."""
    flips_A = np.where(np.sum(lora.A * A, axis=1) < 0, -1.0, 1.0)
    flips_B = np.where(np.sum(lora.B * B, axis=0) < 0, -1.0, 1.0)
    assert_close(flips_A[:, None] * lora.A, A, kind, f"{what}, A")
    assert_close(lora.B * flips_B, B, kind, f"{what}, B")
    if is_pair and A.any() and B.any():
        assert np.array_equal(flips_A, flips_B)


def check_eva(fields, arrays, kind):
    seen = components(arrays["x0"], fields["r"])
    for i in range(3):
        seen = with_batch(seen, arrays[f"x{i}"]) if i else seen
        assert_close(seen.V, arrays[f"V{i}"], kind, f"V after batch {i}")
        assert_close(seen.lengths, arrays[f"lengths{i}"], kind, f"lengths after batch {i}")
        assert_close(seen.ratios(), arrays[f"ratios{i}"], kind, f"ratios after batch {i}")
        assert_close(seen.variances(), arrays[f"variances{i}"], kind, f"variances after {i}")
