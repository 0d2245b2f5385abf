"""PEFT's rule for the keys of rank_pattern and alpha_pattern, decided in bounded time.

A key speaks for a module if the regular expression `(.*\\.)?(key)$` matches the module's path from
its beginning: the key is the path, or its end after a dot, or any expression for them. Of several
keys the first in the file's order wins.

The expression comes from a file that nobody vouches for, and a backtracking engine takes years for
some of them. Here a construct maps the set of positions reached so far to the next such set, the
set held as the bits of an integer: no position is tried twice, and a budget ends what is absurd.
The repetition of one character, which `.*` is, is an addition whose carries run along the path.

Errors:  CheckpointError for an expression that is invalid, that needs more than the budget, or that
         has a construct other than literals, `.`, escapes, [classes], groups, | * + ? {m,n} ^ $
Limits:  so no lookaround, no back reference, no flag, no possessive repetition
Source:  PEFT 0.21.2, utils/other.py, get_pattern_key; Thompson 1968, Communications of the ACM
         11(6), for the sets of positions; Cameron et al. 2014, PACT, MatchStar, for the addition
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from .errors import CheckpointError, shown

_MAX_LENGTH, _MAX_DEPTH, _MAX_STEPS = 1000, 20, 1000
_PLAIN = re.compile(r"[\w.-]*")
_TOKEN = re.compile(
    r"(?P<atom>\\[dDwWsS]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<repeat>(?:[*+?]|\{(?:\d+(?:,\d*)?|,\d*)\})\??)"
    r"|(?P<open>\((?:\?:)?)|(?P<sign>[)|^$])|(?P<refused>\\)|(?P<literal>.)",
    re.DOTALL,
)
_SET_OPERATION = re.compile(r"\[.*(?:\[|--|&&|\|\||~~)", re.DOTALL)

_Step = Callable[["_Run", int], int]


@lru_cache(maxsize=4096)
def first_match(patterns: tuple[str, ...], path: str) -> str | None:
    """Return the first of the patterns that speaks for the module `path`, None if none does.

    >>> first_match(("layers.1.q", "q|v"), "model.layers.0.q")
    'q|v'
    """
    return next((pattern for pattern in patterns if compiled(pattern)(path)), None)


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> Callable[[str], bool]:
    """Return the function that says whether `pattern` speaks for a module's path.

    >>> compiled("q_proj")("layers.0.q_proj"), compiled("proj")("layers.0.q_proj")
    (True, False)
    """
    whole = rf"(.*\.)?({pattern})$"
    if is_plain(pattern):
        # No repetition and no choice: nothing here can backtrack further than the path is long.
        expression = re.compile(whole)
        return lambda path: expression.match(path) is not None
    if len(pattern) > _MAX_LENGTH:
        raise _refusal(pattern, f"must have at most {_MAX_LENGTH} characters")
    step = _Parser(pattern, whole).parse()

    def matches(path):
        if len(path) > _MAX_LENGTH:
            raise _refusal(pattern, f"must match a path of at most {_MAX_LENGTH} characters")
        return step(_Run(pattern, path), 1) != 0

    return matches


def is_plain(pattern: str) -> bool:
    """Say whether `pattern` is a name, in which `.` may stand for any character."""
    return _PLAIN.fullmatch(pattern) is not None


class _Run:
    """One match: the path, and how much of the budget is used."""

    def __init__(self, pattern, path):
        self.pattern, self.path, self.steps = pattern, path, 0
        self.end = 1 << len(path)
        if path.endswith("\n"):
            self.end |= self.end >> 1

    def spend(self):
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise _refusal(self.pattern, f"must match in {_MAX_STEPS} steps, needs more")


class _Parser:
    """Recursive descent over the tokens: choice, sequence, repetition, atom."""

    def __init__(self, pattern, whole):
        self.pattern, self.depth, self.at = pattern, 0, 0
        self.tokens = [(found.lastgroup, found.group()) for found in _TOKEN.finditer(whole)]

    def parse(self) -> _Step:
        step = self._choice()
        if self.at < len(self.tokens):
            raise _refusal(self.pattern, "must be a regular expression, has a ')' too many")
        return step

    def _peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else (None, "")

    def _choice(self):
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _refusal(self.pattern, f"must nest at most {_MAX_DEPTH - 2} groups")
        choices = [self._sequence()]
        while self._peek()[1] == "|":
            self.at += 1
            choices.append(self._sequence())
        self.depth -= 1
        return choices[0] if len(choices) == 1 else _any_of(choices)

    def _sequence(self):
        steps = []
        while self._peek()[0] is not None and self._peek() not in (("sign", "|"), ("sign", ")")):
            steps.append(self._repeated())
        return _in_turn(steps)

    def _repeated(self):
        kind, text = self._peek()
        self.at += 1
        step = self._single(kind, text)
        kind, count = self._peek()
        if kind != "repeat":
            return step
        self.at += 1
        if text in ("^", "$") or self._peek()[0] == "repeat" or self._peek()[1] == "+":
            raise _refusal(self.pattern, f"must not repeat {shown(text + count)} further")
        return _repeat(step, *self._bounds(count))

    def _single(self, kind, text):
        if kind == "open":
            if self._peek()[1].startswith("?"):
                raise _refusal(self.pattern, "must not use '(?' other than '(?:'")
            step = self._choice()
            if self._peek()[1] != ")":
                raise _refusal(self.pattern, "must be a regular expression, lacks a ')'")
            self.at += 1
            return step
        if kind == "sign":
            return _at_start if text == "^" else _at_end
        if kind in ("repeat", "refused") or _SET_OPERATION.match(text):
            raise _refusal(self.pattern, f"must not use {shown(text)} there")
        if (kind, text) == ("literal", "["):
            raise _refusal(self.pattern, "must be a regular expression, lacks a ']'")
        return self._atom(text if kind == "atom" or text == "." else re.escape(text))

    def _atom(self, text):
        try:
            return _Atom(re.compile(text))
        except re.error as error:
            raise _refusal(self.pattern, f"must be a regular expression: {error}") from None

    def _bounds(self, count):
        count = count[:1] if count[0] in "*+?" else count.rstrip("?")
        if count[0] != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[count]
        low, comma, high = count[1:-1].partition(",")
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if most is not None and most < least:
            raise _refusal(self.pattern, f"must be a regular expression, not {shown(count)}")
        return least, most


@dataclass(frozen=True)
class _Atom:
    """An expression that matches one character."""

    one: re.Pattern[str]

    def __call__(self, run, places):
        run.spend()
        return (places & _hits(self.one, run.path)) << 1

    def repeated(self, run, places):
        run.spend()
        hits = _hits(self.one, run.path)
        return (((places & hits) + hits) ^ hits) | places


@lru_cache(maxsize=65536)
def _hits(one, path):
    return sum(1 << i for i, letter in enumerate(path) if one.fullmatch(letter))


def _at_start(run, places):
    return places & 1


def _at_end(run, places):
    return places & run.end


def _any_of(choices):
    def step(run, places):
        reached = 0
        for choice in choices:
            reached |= choice(run, places)
        return reached

    return step


def _in_turn(steps):
    def step(run, places):
        for single in steps:
            if not places:
                break
            places = single(run, places)
        return places

    return step


def _repeat(single, least, most):
    def step(run, places):
        # More turns than positions change nothing: each turn moves on, or the set has settled.
        limit = len(run.path) + 2
        for _ in range(min(least, limit)):
            run.spend()
            places = single(run, places)
        if most is None and isinstance(single, _Atom):
            return single.repeated(run, places)
        reached = fresh = places
        for _ in range(limit if most is None else min(most - least, limit)):
            if not fresh:
                break
            run.spend()
            fresh = single(run, fresh) & ~reached
            reached |= fresh
        return reached

    return step


def _refusal(pattern, problem):
    return CheckpointError(f"pattern {shown(pattern)} {problem}")
