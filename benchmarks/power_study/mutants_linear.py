"""Mutants of linear layers with LoRA and DoRA, and of the merged weight."""

import numpy as np

from lora_ref.verdict.mistakes import names as known

from .cases import Case
from .dtypes import exact, stored
from .implementation import Outputs, Run
from .mutant import (
    LAYERS,
    LINEAR,
    flat_rows,
    on_rows,
    only,
    registry,
    swapped_in,
    through,
    with_scale,
    without,
)

found, gross, subtle = registry()
LORA = ("lora_linear", "lora_merged")


def _scale(name: str, known_name: str, factor) -> None:
    @gross(name, LINEAR, names=(known_name,))
    def mutated(case: Case, run: Run) -> Outputs:
        return run(with_scale(case, factor(case.s, int(case.static["rank"]))))


_scale("α/√r in place of α/r", known.ROOT_FOR_RANK, lambda s, r: s * r**0.5)
_scale("scale left out", known.SCALE_LEFT_OUT, lambda s, r: 1.0)
_scale("scale applied twice", known.SCALE_TWICE, lambda s, r: s * s)
_scale("α not divided by r", known.ALPHA_UNDIVIDED, lambda s, r: s * r)
_scale("update applied twice", known.APPLIED_TWICE, lambda s, r: 2 * s)
_scale("update subtracted", known.SUBTRACTED, lambda s, r: -s)
_scale("LoRA not applied", known.NOT_APPLIED, lambda s, r: 0.0)


@subtle("scale 5 % too small", LINEAR)
def scale_off(case: Case, run: Run) -> Outputs:
    return run(with_scale(case, 0.95 * case.s))


@gross("B A transposed", LINEAR, names=(known.TRANSPOSED, known.SWAPPED))
def transposed(case: Case, run: Run) -> Outputs | None:
    if case["W"].shape[0] != case["W"].shape[1]:
        return None
    outputs = run(case.changed(A=case["B"].T, B=case["A"].T))
    return outputs | {"dA": outputs["dB"].T.copy(), "dB": outputs["dA"].T.copy()}


@gross("A read as (n, r)", LINEAR, names=(known.A_TRANSPOSED,))
def a_transposed(case: Case, run: Run) -> Outputs:
    r, n = case["A"].shape
    outputs = run(case.changed(A=case["A"].reshape(n, r).T))
    return outputs | {"dA": outputs["dA"].T.copy().reshape(r, n)}


@gross("rows of A reversed", LINEAR, names=(known.RANK_REVERSED,))
def rank_reversed(case: Case, run: Run) -> Outputs:
    outputs = run(case.changed(A=case["A"][::-1]))
    return outputs | {"dA": outputs["dA"][::-1].copy()}


@gross("another adapter", LINEAR, names=(known.ANOTHER_UPDATE,))
def another(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(A=case["A2"], B=case["B2"])), "y", "dx")


@gross("base left out", "lora_linear", names=(known.BASE_LEFT_OUT,))
def base_left_out(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(W=0 * case["W"])), "y", "dx")


@gross("bias left out", "lora_linear", names=(known.BIAS_LEFT_OUT,))
def no_bias(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(b=0 * case["b"])), "y")


@gross("bias applied twice", "lora_linear", names=(known.BIAS_TWICE,))
def bias_twice(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(b=2 * case["b"])), "y")


@gross("bias added before the scale", "lora_linear", names=(known.BIAS_SCALED,))
def bias_scaled(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(b=case.s * case["b"])), "y")


@gross("dB without the scale", LINEAR, names=(known.DB_UNSCALED,))
def db_unscaled(case: Case, run: Run) -> Outputs:
    return only(through(run(case), case, dB=lambda t: t / case.s), "dB")


@gross("dA without the scale", LINEAR, names=(known.DA_UNSCALED,))
def da_unscaled(case: Case, run: Run) -> Outputs:
    return only(through(run(case), case, dA=lambda t: t / case.s), "dA")


@subtle("dx without the update", LAYERS, names=(known.DX_WITHOUT_UPDATE,))
def dx_without(case: Case, run: Run) -> Outputs:
    bare = case.changed(B=0 * case["B"])
    if case.kind == "dora_linear":  # the norm is that of V, still
        norms = np.linalg.norm(case["W"] + case.s * case["B"] @ case["A"], axis=1)
        bare = bare.changed(m=case["m"] / norms * np.linalg.norm(case["W"], axis=1))
    return only(run(bare), "dx")


@subtle("last column of W left out", "lora_linear", names=(known.LAST_INPUT_OF_BASE,))
def last_input_of_base(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(W=without(case["W"], 1))), "y")


@subtle("last column of A left out", "lora_linear", names=(known.LAST_INPUT_OF_A,))
def last_input_of_a(case: Case, run: Run) -> Outputs:
    return only(run(case.changed(A=without(case["A"], 1))), "y", "dB")


@subtle("last rank component left out", LINEAR, names=(known.RANK_TRUNCATED,))
def rank_truncated(case: Case, run: Run) -> Outputs:
    return run(case.changed(A=without(case["A"], 0), B=without(case["B"], 1)))


@subtle("another adapter on the last token", "lora_linear", names=(known.ANOTHER_ON_LAST_TOKEN,))
def another_on_one(case: Case, run: Run) -> Outputs:
    right, other = run(case), run(case.changed(A=case["A2"], B=case["B2"]))
    return {n: swapped_in(right[n], other[n], -1) for n in ("y", "dx")}


@subtle("last token left out of the sums", LAYERS, names=(known.GRADIENTS_LAST_TOKEN,))
def last_token_of_gradients(case: Case, run: Run) -> Outputs:
    dy = on_rows(lambda rows: rows.__setitem__(-1, 0))(case["dy"])
    return only(run(case.changed(dy=dy)), "dA", "dB", "dm", "db")


@subtle("last token left out of dB", LAYERS, akin=(known.GRADIENTS_LAST_TOKEN,))
def last_token_of_db(case: Case, run: Run) -> Outputs:
    return only(last_token_of_gradients(case, run), "dB")


@subtle("one element 5 % too large", (*LINEAR, "attention"))
def one_element(case: Case, run: Run) -> Outputs:
    """The one of median size."""
    y = exact(run(case)["y"])
    sizes = np.abs(y).ravel()
    index = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :]
    if not index.size:
        return {}
    y.ravel()[index[len(index) // 2]] *= 1.05
    return {"y": stored(y, case.dtype)}


@subtle(
    "one row is that of the token before", (*LAYERS, "attention"), akin=(known.LAST_TOKEN_STALE,)
)
def stale_row(case: Case, run: Run) -> Outputs | None:
    y = run(case)["y"]
    rows = flat_rows(y)
    if len(rows) < 2:
        return None
    t = int(case.rng(1).integers(1, len(rows)))
    rows[t] = rows[t - 1]
    return {"y": rows.reshape(y.shape)}


@gross("magnitude on the columns", "dora_linear", names=(known.ALONG_INPUTS,))
def wrong_axis(case: Case, run: Run) -> Outputs | None:
    """W'_ij = m_j V_ij / ‖V_·j‖."""
    if case["W"].shape[0] != case["W"].shape[1]:
        return None
    V = case["W"] + case.s * case["B"] @ case["A"]
    g = case["m"] / np.linalg.norm(V, axis=0)
    outputs = run(case.changed({"norm": "m itself", "detached": True}, x=g * case["x"]))
    return through(only(outputs, "y", "dx", "dA", "dB"), case, dx=lambda t: g * t)


@gross("norm of the columns", "dora_linear", names=(known.COLUMN_NORMS_ON_ROWS,))
def column_norms(case: Case, run: Run) -> Outputs | None:
    """W'_ij = m_i V_ij / ‖V_·i‖."""
    if case["W"].shape[0] != case["W"].shape[1]:
        return None
    return run(case.changed({"norm": "columns of V"}))


@gross("magnitude dropped", "dora_linear", names=(known.MAGNITUDE_DROPPED,))
def magnitude_dropped(case: Case, run: Run) -> Outputs:
    return run(case.changed({"norm": "m itself"}))


@gross("norm left out", "dora_linear", names=(known.UNNORMALISED,))
def unnormalised(case: Case, run: Run) -> Outputs:
    return run(case.changed({"norm": "one"}))


@subtle("norm of W", "dora_linear", names=(known.NORM_OF_BASE,))
def norm_of_base(case: Case, run: Run) -> Outputs:
    return run(case.changed({"norm": "rows of W", "detached": True}))


@subtle("norm of W + BA", "dora_linear", names=(known.NORM_UNSCALED,))
def norm_unscaled(case: Case, run: Run) -> Outputs:
    return run(case.changed({"norm": "rows of W + BA"}))


@subtle(
    "the other gradient of the norm", "dora_linear", names=(known.NORM_HELD, known.NORM_NOT_HELD)
)
def other_gradient(case: Case, run: Run) -> Outputs:
    return run(case.changed({"detached": not case.static["detached"]}))


MUTANTS = tuple(found)
