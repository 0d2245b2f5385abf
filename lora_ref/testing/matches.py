"""The verdict as an assertion.

def test_my_kernel():
    case = lora_linear(x, W, A, B, scale, dy)
    assert_matches({"y": y, "dA": dA, "dB": dB}, case, BFLOAT16_CONTRACT)
"""

from collections.abc import Collection, Mapping
from typing import Any

from ..mismatch import Mismatch
from ..verdict.contract import Contract
from ..verdict.findings import Outcome, Status
from ..verdict.judge import judge
from ..verdict.message import message
from ..verdict.oracle import Oracle
from .recording import record

FAILS = (Status.BUG,)
FAILS_STRICT = (Status.BUG, Status.SUSPECT, Status.UNDECIDABLE)


def assert_matches(
    actual: Mapping[str, Any] | Any,
    oracle: Oracle,
    contract: Contract,
    *,
    strict: bool = False,
    left_out: Collection[str] = (),
    known_mistakes: bool = True,
) -> Outcome:
    """Raise `Mismatch` if the contract does not admit `actual`, with all that is known of why.

    `actual` is a mapping from the oracle's output names to arrays of any library, or the array of
    its value y. What passes is returned, so that a test can ask for more. `left_out` and
    `known_mistakes` are those of `judge`: outputs that the kernel does not give, and whether to
    look for known mistakes.

    With `strict` what is no proof of a bug fails as well: "suspect" (errors within the bound that
    random roundings do not leave) and "undecidable" (elements of which the contract admits any
    value, so that nothing was tested). Without it both are in the outcome and in the report;
    pytest's option --lora-ref-strict turns it on for every call.

    Errors:
        Mismatch, an AssertionError, for wrong numbers. What cannot be compared is a ValueError or
        TypeError of `judge`: a shape, a name or a dtype that the oracle and contract do not have.
    """
    __tracebackhide__ = True  # pytest shows the caller's line instead
    outcome = judge(actual, oracle, contract, left_out=left_out, known_mistakes=known_mistakes)
    strict |= record(outcome)
    if outcome.status in (FAILS_STRICT if strict else FAILS):
        raise Mismatch(message(outcome))
    return outcome
