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

NAMED = 12  # layers that a legend has room for


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
        axes.plot(range(1, 1 + len(shown)), relative, ".-", color=colour, linewidth=1, label=name)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{len(spectra)} updates, the first dark and the last bright", fontsize="medium")
    axes.set_xlabel("direction i")
    axes.set_ylabel("σᵢ / σ₁")
    axes.grid(alpha=0.3)
    if len(spectra) <= NAMED:
        axes.legend(fontsize="x-small")
    return figure
