"""The flowchart of one source text: which variant of LoRA, with the reason for every step.

Math:
    memory extreme?                         yes -> QLoRA
    several tasks or dynamic adaptation?    yes -> much compute? yes -> HyperLoRA, no -> AdaLoRA
    more expressiveness needed?             yes -> DoRA, no -> LoRA
Limits:
    The chart is a text's opinion, and `caveats` says where it and the methods part ways.
    QLoRA is a base and the others are adapters: they exclude each other in the chart only.
Source:
    "LoRA variant selection process", the text that `docs/source_texts.md` calls the survey.
"""

from dataclasses import dataclass

CAVEATS = {
    "qlora": "a 4-bit base takes any adapter on top: it is no alternative to the others",
    "hyperlora": "a generator pays for conditions that are seen once; for a few known tasks one "
    "LoRA each, mixed in a batch by rows, has no generator to train",
    "adalora": "it allocates ranks to layers and knows nothing of tasks: for several tasks train "
    "an adapter each",
    "dora": "by DoRA the text means a second pair of factors, which is LoRA at rank 2 r: the "
    "method that others call DoRA trains a magnitude for each output",
    "lora": "",
}


@dataclass(frozen=True)
class Needs:
    """The answers to the questions of the chart."""

    memory_extreme: bool = False
    multi_task: bool = False
    dynamic: bool = False
    much_compute: bool = False
    expressive: bool = False


@dataclass(frozen=True)
class Choice:
    """A method, the answers that led to it, and what the chart does not say."""

    method: str
    reasons: tuple[str, ...]
    caveat: str


def choose(needs: Needs) -> Choice:
    """Follow the chart.

    >>> choose(Needs(multi_task=True)).method
    'adalora'
    """
    if needs.memory_extreme:
        return _choice("qlora", "memory is extremely short: the base in 4 bits")
    reasons = ["memory is not extremely short: the base as it is"]
    asked = [
        what
        for what, wanted in (
            ("several tasks", needs.multi_task),
            ("dynamic adaptation", needs.dynamic),
        )
        if wanted
    ]
    if asked:
        reasons.append(f"{' and '.join(asked)} wanted")
        if needs.much_compute:
            return _choice("hyperlora", *reasons, "compute is plentiful: a generator of factors")
        return _choice("adalora", *reasons, "compute is limited: ranks by importance")
    reasons.append("one task, adaptation fixed after training")
    if needs.expressive:
        return _choice("dora", *reasons, "more expressiveness wanted")
    return _choice("lora", *reasons, "no more expressiveness wanted")


def memory_answer(states: int, available: int) -> tuple[bool, str]:
    """Whether memory is extremely short for `states` bytes of 16-bit LoRA, and why."""
    compared = f"{states:,} bytes of model states with LoRA, {available:,} available"
    if states > available:
        return True, f"{compared}: too much even without activations"
    return False, f"{compared}: {available - states:,} left for activations"


def _choice(method: str, *reasons: str) -> Choice:
    return Choice(method, reasons, CAVEATS[method])
