"""Bugs of the scale: W + t B A with another t than the adapter's s.

Source: bug catalogue rows S1, S2, S4, S5 (rsLoRA ignored: vllm#6909, TensorRT-LLM#1668,
exllamav2#619, aprender#2189), S7, S8 (per-layer alpha: sglang#16935, diffusers#14409), S11, S14
(α undivided: mlx-vlm#845, LLMs-from-scratch#1080), S13 (no scale: mflux#449), C14, Q16 (twice:
candle-lora#26, peft#1355), Q11 (not applied: unsloth#869).
"""

import math
from collections.abc import Iterator

import numpy as np

from ...verdict.grids import Grid
from ...verdict.mistakes import names
from ..measure import Take, sample_of
from ..recipes import ACCUMULATED, DELTA_FIRST, Recipe
from ..updates import EVERY, Columns, Conventions, LowRank, Terms, in_order
from ..ways import Way
from .hypothesis import Hypothesis, Suspect

SAMPLE = (128, 512)  # rows and columns that a scale is fitted on
ITERATIONS = 8
MOST_CAUSES = 3  # in the name of a diagnosis; its formula has them all
NEARLY_ALL = 0.002  # the first of two roundings is not known to the last bit


def wrong_scale(suspect: Suspect) -> Iterator[Hypothesis]:
    """Every scale that somebody has used in place of s; equal numbers are named together."""
    if not suspect.adapted:
        return
    update = suspect.update
    for value, labels in _by_value(update):
        yield Hypothesis(_title(labels), _formula(update, value, labels), update.with_scale(value))
    for times in _fitted(suspect):
        if abs(times - 1) <= 2 * 2.0**-suspect.pair.grid.precision:
            continue  # s itself, rounded to the stored dtype, perhaps as the root in each factor
        value = times * update.scale
        formula = f"{added(value)}, {times:.4g} times s·BA with s = {convention(update)}"
        yield Hypothesis("scale", formula, update.with_scale(value), tolerated=NEARLY_ALL)


def _by_value(update: LowRank) -> Iterator[tuple[float, list[list[str]]]]:
    """(scale, its formulas), where formulas that are the same for every α and r stand together.

    Which are the same is seen at a second point, at which no two others can meet.
    """
    k = update.conventions
    alpha = math.e if k.general_alpha == k.alpha else math.pi
    generic = Conventions(math.e, 7, k.stabilised, alpha, 7 if k.general_rank == k.rank else 11)
    s = math.e / 7 ** (0.5 if k.stabilised else 1.0)
    elsewhere = [v for _, v in candidates(generic, s)]
    named: dict[float, dict[float, list[str]]] = {}
    for (label, value), twin in zip(candidates(k, update.scale), elsewhere, strict=True):
        if _same(value, update.scale):
            continue
        value = next((known for known in named if _same(known, value)), value)
        formulas = named.setdefault(value, {})
        twin = next((known for known in formulas if _same(known, twin)), twin)
        formulas.setdefault(twin, []).append(label)
    for value, formulas in named.items():
        yield value, list(formulas.values())


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b))


def _title(labels: list[list[str]]) -> str:
    """What was done; what gives the same number by chance is named with it."""
    return " or ".join(dict.fromkeys(group[0].split(":")[0] for group in labels[:MOST_CAUSES]))


def added(value: float) -> str:
    """W plus a multiple of BA.

    >>> added(-1.5)
    'W − 1.5·BA'
    """
    return f"W {'−' if value < 0 else '+'} {abs(value):.6g}·BA"


def _fitted(suspect: Suspect) -> Iterator[float]:
    """Multiples t of s: all that explain every element of a sample, else those nearest to it.

    M = round(W + t D) says of each element between which numbers t is, and where those intervals
    meet is t. Where they do not, t leaves nothing of the update in M − round(W + t D), which is
    iterated: that works on grids that swallow a part of the update, where the projection c fails.
    """
    rows, columns = sample_of(suspect.pair.shape, np.random.default_rng(1), SAMPLE)
    W, M = suspect.pair.base(rows, columns), suspect.pair.merged(rows, columns)
    D = suspect.update.delta(rows, columns)
    size = float(np.vdot(D, D))
    if size == 0 or not np.isfinite(M).all():
        return
    for steps in (0.5, 1.0):
        low, high = _meeting(W, M, D, steps * suspect.pair.grid.ulp(M))
        if low < high:
            yield _shortest(low, high)
            return
    times = float(np.vdot(M - W, D)) / size
    for _ in range(ITERATIONS):
        times += float(np.vdot(M - suspect.pair.grid.round(W + times * D), D)) / size
    for digits in (2, 3, 4):
        yield float(f"{times:.{digits}g}")


def _meeting(W: np.ndarray, M: np.ndarray, D: np.ndarray, reach: np.ndarray) -> tuple[float, float]:
    """The t with |W + t D − M| <= reach everywhere, as (lowest, highest)."""
    some = D != 0
    ends = (M[some] - W[some] + np.array([[-1.0], [1.0]]) * reach[some]) / D[some]
    return float(ends.min(axis=0).max()), float(ends.max(axis=0).min())


def _shortest(low: float, high: float) -> float:
    """The number of fewest decimal digits from low to high; their mean if none has under 16."""
    middle = (low + high) / 2
    for digits in range(1, 16):
        found = float(f"{middle:.{digits}g}")
        if low <= found <= high:
            return found
    return middle


def repeated(suspect: Suspect) -> Iterator[Hypothesis]:
    """Merged twice one after the other, or merged and unmerged, with a rounding in between."""
    if not suspect.adapted:
        return
    update = suspect.update
    back = update.with_scale(-update.scale)
    for recipe in (ACCUMULATED, DELTA_FIRST):
        base = merged_by(recipe, suspect)
        again = "round(round(W + s·BA) + s·BA)"
        yield Hypothesis(names.APPLIED_TWICE, again, update, base, NEARLY_ALL)
        undone = "round(round(W + s·BA) − s·BA)"
        yield Hypothesis("merged and unmerged again", undone, back, base, NEARLY_ALL)


def merged_by(recipe: Recipe, suspect: Suspect, grid: Grid | None = None) -> Take:
    """The right merge by one recipe, as the base of what was done to it afterwards."""
    update, grid = suspect.update, grid or suspect.pair.grid
    way = Way(recipe, grid, grid)

    def take(rows: np.ndarray, columns: Columns = EVERY) -> np.ndarray:
        W = suspect.pair.base(rows, columns)
        product = *update.product(rows, columns), in_order(update, rows, columns)
        return way.interval(W, product, update.scale, Terms(update, rows, columns))[0]

    return take


def convention(update: LowRank) -> str:
    """The adapter's scale in words, for example 'α/√r = 3.13'."""
    rule = "α/√r" if update.conventions.stabilised else "α/r"
    return f"{rule} = {update.scale:.6g}"


def candidates(k: Conventions, s: float) -> Iterator[tuple[str, float]]:
    """(what was done, the scale that it makes), given the adapter's numbers and its scale."""
    alpha, r = k.alpha, k.rank
    yield f"{names.NOT_APPLIED}: 0", 0.0
    yield f"{names.APPLIED_TWICE}: 2s", 2 * s
    yield f"{names.APPLIED_THREE_TIMES}: 3s", 3 * s
    yield f"{names.SUBTRACTED}: −s", -s
    if k.stabilised:
        yield f"{names.RANK_FOR_ROOT}: α/r", alpha / r
    else:
        yield f"{names.ROOT_FOR_RANK}: α/√r", alpha / r**0.5
    yield f"{names.ALPHA_UNDIVIDED}: α", alpha
    yield f"{names.SCALE_LEFT_OUT}: 1", 1.0
    yield f"{names.SCALE_TWICE}: s²", s * s
    yield f"{names.SCALE_INVERTED}: 1/s", 1 / s
    yield f"{names.HALVED}: s/2", s / 2
    power = 0.5 if k.stabilised else 1.0
    yield "alpha_pattern ignored: lora_alpha / r", k.general_alpha / r**power
    yield "rank_pattern ignored: α / r of the configuration", alpha / k.general_rank**power
    both = k.general_alpha / k.general_rank**power
    yield "both patterns ignored: lora_alpha / r of the configuration", both
    yield "α left out: 1/r", 1 / r
    yield "α left out: 1/√r", r**-0.5
    yield "α and r exchanged: r/α", r / alpha
    yield f"{names.ROOT_OF_SCALE}: √s", abs(s) ** 0.5
    yield "multiplied by r: s·r", s * r
    yield f"{names.RANK_TWICE}: s/r", s / r
    yield "multiplied by √r: s·√r", s * r**0.5
    yield "divided by √r once more: s/√r", s / r**0.5
    yield "r in place of the scale: r", float(r)
    yield "√r in place of the scale: √r", r**0.5
    yield "multiplied by α: s·α", s * alpha
    yield "1/α in place of the scale: 1/α", 1 / alpha


def _formula(update: LowRank, value: float, labels: list[list[str]]) -> str:
    short = " = ".join(label.split(": ", 1)[1] for group in labels for label in group)
    what = "W" if value == 0 else f"{added(value)} ({short})"
    return f"{what}, where W + s·BA with s = {convention(update)}"
