"""PEFT's names for combinations of adapters, in this library's functions.

PEFT holds the weights in a float32 tensor; `single` rounds ours alike, so that what is left to
compare is the formula. "cat" alone multiplies by Python floats.
"""

import numpy as np

from lora_ref.compose.factors import on_factors, weighted_cat
from lora_ref.compose.prune import drop_and_rescale, trim
from lora_ref.compose.task_arithmetic import weighted_sum
from lora_ref.compose.ties import agreeing_mean, by_count, by_total
from lora_ref.compose.truncated import truncated
from lora_ref.trees import leaves, tree_map

ELECTIONS = {"total": by_total, "frequency": by_count}
TRIMMED = ("ties", "magnitude_prune")
DROPPED = ("dare_linear", "dare_ties")
TYPES = ("linear", *TRIMMED, *DROPPED)


def single(weights):
    return [float(np.float32(w)) for w in weights]


def combined(name, parts, weights, *, density=1.0, masks=(), elect="total", rank=None):
    """What `add_weighted_adapter(combination_type=name)` makes of the parts.

    `masks` are DARE's in the order in which PEFT draws them: for the A of each part, then the B;
    or for the update of each part.
    """
    if name == "cat":
        return weighted_cat(parts, weights)
    dense = name.endswith("svd")
    kind = name.removesuffix("svd").removesuffix("_") or "linear"

    def combine(tensors, weights):
        if kind.endswith("ties"):
            return agreeing_mean(tensors, single(weights), ELECTIONS[elect])
        return weighted_sum(tensors, single(weights))

    pruned = pruned_as(kind, [p.delta() for p in parts] if dense else parts, density, masks)
    if dense:
        return truncated(combine(pruned, weights), rank)
    return on_factors(pruned, weights, combine)


def pruned_as(kind, trees, density, masks):
    """Every update, or both factors of every part, with entries left out."""
    if kind in TRIMMED:
        return [tree_map(lambda t: trim(t, density), tree) for tree in trees]
    if kind not in DROPPED:
        return trees
    queue = dict.fromkeys(path for path, _ in leaves(trees[0]))
    for i, path in enumerate(queue):
        queue[path] = list(masks[i * len(trees) : (i + 1) * len(trees)])
    dropped = []
    for tree in trees:
        own = iter([queue[path].pop(0) for path in queue])
        dropped.append(tree_map(lambda t: drop_and_rescale(t, next(own), density), tree))  # noqa: B023
    return dropped
