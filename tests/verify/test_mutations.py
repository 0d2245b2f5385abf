"""Every planted bug is seen, gets its right name, and nothing else of the checkpoint is blamed."""

import os
from pathlib import Path

import mutations_more  # noqa: F401 - fills the table
import numpy as np
import pytest
from layouts import LAYOUTS
from mutations import MUTATIONS, Bench, Mutation

from lora_ref.verify import Status, verify

PAGE = Path(__file__).parents[2] / "docs" / "verify_mutations.md"
DEEP = (("bfloat16", 0.05),) if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else ()
STORED = (("bfloat16", 0.01), ("float32", 0.01), *DEEP)
SIXTEEN_BITS = ", in bfloat16"
INTRODUCTION = """# Bugs that `verify` is tested with

Each row is a mistake planted in an otherwise right merge of a small model, in bfloat16 and in
float32, with an update of 1 % of the weight (with HYPOTHESIS_PROFILE=deep also in bfloat16 with
5 %). The test demands that every tensor it spoils is reported as a bug under the name in the last
column, and no other tensor at all.
"Row" is the entry of the catalogue of public bug reports that the mistake is from. This page is
made by `tests/verify/test_mutations.py`, which checks that it is up to date.

| mistake | row | model | diagnosis |
|---|---|---|---|
"""


def cases() -> list:
    return [
        pytest.param(m, dtype, size, id=f"{m.title}-{dtype}-{size:g}")
        for m in MUTATIONS
        for dtype, size in STORED
        if dtype == "bfloat16" or not m.layout.endswith(SIXTEEN_BITS)
    ]


def spoiled(mutation: Mutation, dtype: str, size: float) -> Bench:
    rng = np.random.default_rng(3)
    case = LAYOUTS[mutation.layout.removesuffix(SIXTEEN_BITS)](rng, size).cast(dtype)
    right = case.merged()
    bench = Bench(case, right, rng, dict(right))
    mutation.apply(bench)
    return bench


def is_right(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == w or (w.endswith("…") and name.startswith(w[:-1])) for w in wanted)


@pytest.mark.parametrize(("mutation", "dtype", "size"), cases())
def test_a_planted_bug_is_seen_and_rightly_named(tmp_path, mutation, dtype, size):
    bench = spoiled(mutation, dtype, size)
    report = verify(*bench.case.write(tmp_path, bench.out))
    bugs = {
        v.name: [d.name for d in v.diagnoses] for v in report.verdicts if v.status == Status.BUG
    }
    assert bugs.keys() == bench.touched
    wrong = {n: d for n, d in bugs.items() if not is_right(d[0], mutation.names)}
    assert not wrong


def page() -> str:
    """The table of mutations as a page of the documentation."""
    lines = []
    for m in MUTATIONS:
        names = " or ".join(m.names).replace("…", " …")
        lines.append(f"| {m.title} | {m.row} | {m.layout} | {names} |\n")
    return INTRODUCTION + "".join(lines)


def test_the_page_of_mutations_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_row_of_the_bug_catalogue_that_a_merge_can_show_is_planted():
    planted = {row for m in MUTATIONS for row in m.row.split(", ")}
    # The rest of the catalogue's rows marked M are of LoHa, DoRA and LyCORIS, or need a quantized
    # merged checkpoint (Q4), which this version refuses.
    assert planted >= {"S5", "S7", "S8", "S16", "S17", "L1", "L2", "L10", "L11", "L13", "L14",
                       "L22", "C8", "C14", "Q2", "Q5", "Q7", "Q11", "Q16", "Q17"}  # fmt: skip
