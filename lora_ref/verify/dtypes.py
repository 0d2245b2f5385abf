"""Which dtype should a tensor of merged have? The one that most of its kind have.

A merge may convert a whole checkpoint, or only what it touches; a single tensor in another dtype
than its kind is a mistake. The kind is the dtype in the base and whether the adapter changes it.
"""

from collections import Counter
from typing import Any


def wrong_dtypes(job: Any) -> dict[str, str]:
    """Tensor name -> what is wrong with its dtype, for those that are of another than their kind.

    A kind of one or two tensors that differ shows nothing, unless the base's own dtype decides.
    """
    kinds: dict[tuple[str, bool], dict[str, str]] = {}
    for name in job.names:
        there = job.shift(name)
        stored = job.plan.stored_at(name)
        if there in job.merged.homes and stored is not None:
            kind = (job.base.info(stored).dtype, name in job.plan)
            kinds.setdefault(kind, {})[name] = job.merged.info(there).dtype
    overall = Counter(d for found in kinds.values() for d in found.values())
    odd = {}
    for (before, _), found in kinds.items():
        counts = Counter(found.values())
        if before in counts and counts[before] * 2 >= len(found):
            usual = before
        else:
            usual = max(counts, key=lambda d: (counts[d], overall[d]))
        for name, dtype in found.items():
            if dtype != usual:
                odd[name] = f"{dtype} in MERGED, where the others of its kind are {usual}"
    return odd
