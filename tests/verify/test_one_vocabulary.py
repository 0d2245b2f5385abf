"""A mistake has one name, whether a kernel made it or a merge."""

import ast
from pathlib import Path

import numpy as np
import pytest

import lora_ref
from lora_ref.adapters.lora import LoRA
from lora_ref.verdict.grids import FLOAT64
from lora_ref.verdict.mistakes import names
from lora_ref.verdict.oracles import lora_merged
from lora_ref.verify.catalogue import CATALOGUE, Surroundings, Suspect
from lora_ref.verify.measure import Pair, measure
from lora_ref.verify.updates import Conventions, LowRank, Part

PACKAGE = Path(lora_ref.__file__).parent
NAMES = {value: name for name, value in vars(names).items() if name.isupper()}
FILES = sorted(
    p
    for folder in ("verify", "verdict/mistakes")
    for p in (PACKAGE / folder).rglob("*.py")
    if p.name != "names.py" or folder == "verify"
)
M, N, R, ALPHA = 12, 8, 3, 5.0
ROWS = np.arange(M)


def test_no_two_constants_are_the_same_name():
    assert len(NAMES) == sum(name.isupper() for name in vars(names))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_name_that_is_a_constant_is_nowhere_written_out(path):
    """Alone, or at the beginning of a longer one."""
    known = tuple(value for value in NAMES if " " in value)
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    texts = [n.value for n in ast.walk(parsed) if isinstance(n, ast.Constant)]
    written = [t for t in texts if isinstance(t, str) and (t in NAMES or t.startswith(known))]
    assert not written


@pytest.mark.parametrize("columns", [N, M], ids=["rectangular", "square"])
def test_what_both_catalogues_predict_has_the_same_name_in_both(columns):
    """A known mistake whose very tensor some hypothesis gives is named by one of those."""
    rng = np.random.default_rng(2)
    W, (A, B), (C, D) = (draw(rng, columns) for draw in (weight, factors, factors))
    called: dict[str, set[str]] = {}
    for s in (ALPHA / R, ALPHA / R**0.5):
        oracle = lora_merged(W, A, B, scale=s, others=(LoRA(C, D, s),))
        made = {m.name: (m.outputs(oracle) or {}).get("y") for m in oracle.mistakes}
        for h in hypotheses(W, A, B, C, D, s):
            tensor = (W if h.base is None else h.base(ROWS)) + h.update.delta(ROWS)
            for name, y in made.items():
                if y is not None and np.allclose(y, tensor, rtol=1e-12, atol=1e-12):
                    called.setdefault(name, set()).add(h.name)
    assert len(called) >= 20
    assert [n for n, hs in called.items() if not any(n in h for h in hs)] == []


def weight(rng, columns):
    return rng.standard_normal((M, columns))


def factors(rng, columns):
    return rng.standard_normal((R, columns)), rng.standard_normal((M, R))


def hypotheses(W, A, B, C, D, s):
    conventions = Conventions(ALPHA, R, s != ALPHA / R, ALPHA, R)
    update, other = (
        LowRank(name, name, W.shape, (Part(0, L, T),), s, conventions)
        for name, L, T in (("t", B, A), ("u", D, C))
    )
    pair = Pair(W, W + 1.1 * update.delta(ROWS), FLOAT64, FLOAT64)
    around = Surroundings({"t": W.shape}, {"t": W}.get, {"t": update, "u": other})
    suspect = Suspect("t", pair, update, measure(pair, update), around)
    return [h for entry in CATALOGUE for h in entry(suspect)]
