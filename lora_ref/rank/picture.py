"""A picture of spectra: a line for each layer, all relative to its largest singular value.

Errors:
    ValueError for no layers.
Limits:
    Needs the [plot] extra. A singular value that is zero has no place on a logarithmic axis and
    ends its line.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays import Array
from ..pages.printable import printable

NAMED = 12  # layers that a legend has room for


def label_of(name: str) -> str:
    """A layer's name as matplotlib shows it: no mathematics, and what is not printable escaped.

    >>> print(label_of("l.$q\\x1b"))
    l.\\$q\\x1b
    """
    return printable(name).replace("$", r"\$")


def spectra_figure(spectra: Mapping[str, Array]) -> Any:
    """A matplotlib figure, colours from the first layer to the last."""
    if not spectra:
        raise ValueError("spectra_figure: spectra must have a layer, got none")
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(spectra)))
    for (name, sigma), colour in zip(spectra.items(), colours, strict=True):
        values = np.asarray([float(s) for s in sigma])
        shown = values[values > 0]
        relative = shown / shown[:1]
        axes.plot(
            range(1, 1 + len(shown)),
            relative,
            ".-",
            color=colour,
            linewidth=1,
            label=label_of(name),
        )
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{len(spectra)} updates, the first dark and the last bright", fontsize="medium")
    axes.set_xlabel("direction i")
    axes.set_ylabel("σᵢ / σ₁")
    axes.grid(alpha=0.3)
    if len(spectra) <= NAMED:
        # By hand: left to itself a legend hides names that begin with an underscore.
        axes.legend(axes.lines, [label_of(name) for name in spectra], fontsize="x-small")
    return figure
