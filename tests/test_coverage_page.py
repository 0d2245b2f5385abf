"""docs/coverage.md says what is in the tree, and leaves nothing of PEFT out."""

import warnings

import pytest
from coverage_page import PAGE, ROWS, has_test, is_built, page

from lora_ref.checkpoint.tuners import TUNERS


def test_the_page_is_what_the_tree_gives():
    """If not: `python tests/coverage_page.py`."""
    assert PAGE.read_text() == page()


def test_what_is_built_has_its_test():
    rows = [*(r[-2:] for r in (*ROWS["texts"], *ROWS["settings"])), *ROWS["methods"].values()]
    assert [test for files, test in rows if is_built(files) and not has_test(test)] == []


def test_every_method_whose_files_are_read_is_built():
    assert [x for x in ("LORA", "ADALORA", *TUNERS) if not is_built(ROWS["methods"][x][0])] == []


@pytest.mark.peers
def test_every_method_of_peft_has_its_row():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    assert {*ROWS["methods"], *ROWS["prompts"]} == {kind.value for kind in peft.PeftType}
