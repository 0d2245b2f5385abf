"""The README's kernel example is run, right and wrong, and prints what the README says.

Numbers are not compared. PyTorch adds in another order on another processor, so the worst element,
its error and the shares may differ; verdicts, names, sentences and their order may not. `without`
puts a # for every number, the ones in dtypes' names excepted.
"""

import re
import traceback
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?")
RIGHT, WRONG = "alpha / len(A) *", "alpha / len(A) ** 0.5 *"


def block_after(marker):
    """The code block after <!-- marker -->."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1]


def without_numbers(text):
    """The text with a # for every number that stands alone."""
    return NUMBER.sub("#", text)


@pytest.fixture
def example():
    """The code of the README."""
    pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    return block_after("kernel example")


def test_the_example_has_fewer_than_ten_lines_of_code(example):
    assert sum(bool(line.strip()) for line in example.splitlines()) < 10


def test_the_right_kernel_prints_what_the_readme_says(example, capsys):
    exec(example, {})
    expected = block_after("kernel example, right")
    assert without_numbers(capsys.readouterr().out) == without_numbers(expected)


def test_the_wrong_kernel_raises_what_the_readme_says(example):
    assert RIGHT in example
    with pytest.raises(AssertionError) as raised:
        exec(example.replace(RIGHT, WRONG), {})
    said = "".join(traceback.format_exception_only(raised.value))
    assert without_numbers(said) == without_numbers(block_after("kernel example, wrong"))


def test_the_wrong_kernel_is_named_in_the_readme():
    assert "diagnosis: α/√r where the adapter says α/r PRESENT" in block_after(
        "kernel example, wrong"
    )


def test_only_numbers_that_stand_alone_are_masked():
    said = "bfloat16, blocks of 256: 704 at (1, 99), 9e-05, −2, 1.65; 6,124 of 6,144"
    assert without_numbers(said) == "bfloat16, blocks of #: # at (#, #), #, −#, #; # of #"
