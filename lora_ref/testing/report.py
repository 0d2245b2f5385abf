"""The reports of a test run: JSON for programs, and the same as a page.

The same verdicts give the same bytes: there is no time stamp in them, and tests are in the order
of their ids however they were spread over processes.

    schema, schema_version   "lora-ref/verdicts", 1
    versions                 of lora_ref, pytest and Python
    strict, verdict, counts  the most severe verdict (null: no test judged anything), and of how
                             many tensors each is the verdict
    tests[]                  test (its id), passed, verdict, judgements[]
    judgements[]             one for each contract: contract, name, explanation, calls, tensors[],
                             diagnoses[], audit[], power[]
    tensors[]                name, status, calls, line, and the figures of the worst call:
                             reason, shape, ratio (largest error/bound), worst (its index), actual,
                             expected, bound, ulps, outside, undecidable, max_z, rms_z, where[]
    diagnoses[]              name, formula, state, share, error, signal
"""

import os
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .. import __version__
from ..pages.plain_json import as_json, heading
from .recording import SEVERITY, Fields
from .report_page import as_page


def write_reports(report: Path, tests: list[Fields], *, strict: bool) -> None:
    """Write the JSON to `report` and the page beside it."""
    fields = as_fields(tests, strict=strict)
    whole = {report: as_json(fields), report.with_suffix(".html"): as_page(fields)}
    for path, content in whole.items():
        _write(path, content)


def as_fields(tests: list[Fields], *, strict: bool) -> dict[str, Any]:
    """The report as what JSON can hold."""
    listed = [{**test, "judgements": list(map(_listed, test["judgements"]))} for test in tests]
    found = [t["status"] for test in listed for j in test["judgements"] for t in j["tensors"]]
    counts = Counter(found)
    return {
        **heading("lora-ref/verdicts", 1, __version__, pytest=pytest.__version__),
        "strict": strict,
        "verdict": max(found, key=SEVERITY.index, default=None),
        "counts": {status: counts[status] for status in SEVERITY},
        "tests": listed,
    }


def _listed(judgement: Fields) -> Fields:
    """A judgement with lists for what is kept by name while it grows."""
    both = ("tensors", "diagnoses")
    return {**judgement, **{key: list(judgement[key].values()) for key in both}}


def _write(path: Path, content: bytes) -> None:
    """Put a whole file in the place of what is there, or leave that as it is."""
    partial = path.with_name(f".lora_ref-{secrets.token_hex(8)}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
