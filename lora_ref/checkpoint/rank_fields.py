"""The fields of an adapter's configuration that say the rank and the scale of every module.

Math:    s = α/r; without an alpha, α is r in every module, so that every scale is 1
Limits:  the rank that most modules have is r, the others are in rank_pattern under the path. A
         path that would speak for a module of another rank too, as q does for a.q, is written as
         an expression that does not
Source:  PEFT 0.21.2, tuners/lora/config.py, rank_pattern and alpha_pattern; the rule: `patterns`
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .patterns import compiled


def rank_fields(ranks: Mapping[str, int], alpha: float | None = None) -> dict[str, Any]:
    """The fields for these ranks of modules, at this alpha or at scales of 1.

    >>> rank_fields({"l.0.q": 4, "l.1.q": 4, "l.2.q": 3}, alpha=8)
    {'r': 4, 'lora_alpha': 8, 'rank_pattern': {'l.2.q': 3}, 'alpha_pattern': {}}
    >>> rank_fields({"a.q": 4, "b.q": 4, "q": 3})["alpha_pattern"]
    {'^q': 3}
    """
    most, _ = max(Counter(ranks.values()).items(), key=lambda item: (item[1], item[0]))
    pattern = {_key(path, ranks): rank for path, rank in ranks.items() if rank != most}
    return {
        "r": most,
        "lora_alpha": most if alpha is None else alpha,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern) if alpha is None else {},
    }


def _key(path: str, ranks: Mapping[str, int]) -> str:
    speaks = compiled(re.escape(path) if not _is_name(path) else path)
    clash = any(rank != ranks[path] and speaks(other) for other, rank in ranks.items())
    return f"^{re.escape(path)}" if clash or not _is_name(path) else path


def _is_name(path: str) -> bool:
    return re.fullmatch(r"[\w.-]*", path) is not None
