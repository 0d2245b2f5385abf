"""What honest implementations look like to the filters: the check on the filters themselves.

The filters take roundings to be independent. Where many elements share one (a row its norm, a
column its factor, partial sums of one sign their growth), honest errors may point along a mistake.
So before a mistake or a gain is held against outputs that are within their bounds, the contract is
emulated as for the statistics, and what honest outputs show of it is what rounding can do.

Math:
    β_h, g_h: the share of a mistake and the gain of a path in honest outputs h
    a mistake is not PRESENT where β <= 4 max β_h
    a gain is right from 1 − 2 (1 − min g_h), which is not below 0 unless a g_h is, to
    1 + 2 (max g_h − 1), and six errors beyond
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .findings import Diagnosis, Gain, State
from .noise import Arrays
from .path_gains import path_gains
from .signature import Signature
from .statistics import TRUST
from .view import View

DOUBT = 4.0  # times what honest outputs show


def doubted(
    diagnoses: Sequence[Diagnosis], view: View, honest: Sequence[Arrays]
) -> tuple[Diagnosis, ...]:
    """The diagnoses, without those that honest outputs would get as well."""
    return tuple(_doubted(d, view, honest) if d.state is State.PRESENT else d for d in diagnoses)


def _doubted(d: Diagnosis, view: View, honest: Sequence[Arrays]) -> Diagnosis:
    s = _signature_of(d, view)
    most = max((s.share(_errors(h, view, s)) for h in honest), default=0.0) if s else 0.0
    if d.share > DOUBT * most:
        return d
    reason = f"honest rounding alone looks like {most:.2g} of it"
    return replace(d, state=State.UNDECIDABLE, reason=reason)


def _signature_of(d: Diagnosis, view: View) -> Signature | None:
    """That of a diagnosis, or of the first of several names."""
    for mistake in view.oracle.mistakes:
        if d.name.startswith(mistake.name):
            for s in view.signatures(mistake):
                if d.name == s.name or d.name.startswith(f"{s.name} or "):
                    return s
    return None


def _errors(outputs: Arrays, view: View, s: Signature) -> Arrays:
    """In σ, of the outputs that a mistake changes."""
    found = {n: view.noises[n].in_sigma(outputs[n] - view.noises[n].reference) for n in s.D}
    return {n: np.where(np.isfinite(z), z, 0.0) for n, z in found.items()}


def doubted_gains(gains: Sequence[Gain], view: View, honest: Sequence[Arrays]) -> tuple[Gain, ...]:
    """The gains, with the range that honest outputs show."""
    seen = np.ones((1, len(gains)))
    for outputs in honest:
        shown = {n: t for n, t in outputs.items() if n in view.noises}
        found = path_gains(replace(view, actual=shown))
        seen = np.vstack([seen, [gain.value for gain in found]])
    return tuple(
        replace(gain, least=_least(float(low)), most=1 + TRUST * (float(high) - 1))
        for gain, low, high in zip(gains, seen.min(axis=0), seen.max(axis=0), strict=True)
    )


def _least(low: float) -> float:
    """Rounding may lose a path, but turns its sign only where it was seen to."""
    return min(low, max(0.0, 1 - TRUST * (1 - low)))
