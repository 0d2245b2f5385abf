"""The table of `lora-ref rank`, its JSON, and spectra as a line of bars.

    module   shape   r   rank   effective   stable   90 %   99 %   [‖ΔW‖² kept at 8]   [spectrum]

rank is the numerical one; 90 % and 99 % are the ranks that keep that share of ‖ΔW‖².
"""

from typing import Any

import numpy as np
from rich.table import Table

from ..checkpoint.peft_config import LoraConfig
from ..checkpoint.reranked import Change
from ..checkpoint.spectra import LayerSpectrum
from ..pages import plain_json
from ..pages.printable import printable
from ..rank.measures import default_tolerance, retained
from ..rank.suggestion import Suggestion
from .terminal import console_for, elided, print_rows

SCHEMA = "lora-ref/rank"
SCHEMA_VERSION = 1
LEVELS = "▁▂▃▄▅▆▇█"
LEAST_NAME, NUMBERS, KEPT = 24, 56, 20  # columns: of a name, of the figures, of --to's


def bars(layer: LayerSpectrum) -> str:
    """σᵢ / σ₁ as a bar for each direction; a dot for what is numerically zero."""
    sigma = layer.spectrum
    tolerance = default_tolerance(sigma, layer.shape)
    top = float(sigma[0]) or 1.0
    return "".join(
        LEVELS[min(7, int(8 * s / top))] if s > tolerance * top else "·" for s in map(float, sigma)
    )


def print_table(layers: tuple[LayerSpectrum, ...], to: int | None, plot: bool) -> None:
    """A row for each update."""
    console = console_for()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("module", no_wrap=True)
    kept = [] if to is None else [f"‖ΔW‖² kept at {to}"]
    for title in ("shape", "r", "rank", "effective", "stable", "90 %", "99 %", *kept):
        table.add_column(title, justify="right", no_wrap=True)
    if plot:
        table.add_column("spectrum", overflow="fold")
    others = NUMBERS + KEPT * len(kept) + plot * max(layer.rank for layer in layers)
    room = max(LEAST_NAME, console.width - others)
    for layer in layers:
        table.add_row(elided(printable(layer.name), room), *_cells(layer, to, plot))
    print_rows(console, table)


def _cells(layer: LayerSpectrum, to: int | None, plot: bool) -> list[str]:
    m = layer.measures
    cells = [
        f"{layer.shape[0]} × {layer.shape[1]}",
        str(layer.rank),
        str(m.numerical),
        f"{m.effective:.2f}",
        f"{m.stable:.2f}",
        str(m.energy90),
        str(m.energy99),
    ]
    if to is not None:
        cells.append(f"{retained(layer.spectrum, to):.2%}")
    return [*cells, bars(layer)] if plot else cells


def as_json(
    adapter: str,
    config: LoraConfig,
    layers: tuple[LayerSpectrum, ...],
    advice: Suggestion,
    written: dict[str, Any] | None,
    version: str,
) -> bytes:
    """Everything as indented ASCII JSON; the schema is in docs/rank.md."""
    fields = {
        **plain_json.heading(SCHEMA, SCHEMA_VERSION, version, numpy=np.__version__),
        "inputs": {"adapter": adapter},
        "adapter": {
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "use_rslora": config.use_rslora,
            "rank_pattern": dict(config.rank_pattern),
            "alpha_pattern": dict(config.alpha_pattern),
        },
        "layers": [_layer(layer) for layer in layers],
        "suggestion": {
            "share": advice.share,
            "uniform": advice.uniform,
            "ranks": dict(advice.ranks),
            "full": list(advice.full),
            "reasons": list(advice.reasons()),
        },
        "reranked": written,
    }
    return plain_json.as_json(fields)


def reranked_fields(to: int, out: str, changes: tuple[Change, ...]) -> dict[str, Any]:
    """What was written, for the JSON."""
    return {
        "rank": to,
        "out": out,
        "modules": [
            {
                "name": c.name,
                "before": c.before,
                "after": c.after,
                "retained": c.retained,
                "error": c.error,
            }
            for c in changes
        ],
    }


def _layer(layer: LayerSpectrum) -> dict[str, Any]:
    m, sigma = layer.measures, layer.spectrum
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "r": layer.rank,
        "scale": layer.scale,
        "numerical_rank": m.numerical,
        "effective_rank": m.effective,
        "stable_rank": m.stable,
        "energy_rank": {"0.9": m.energy90, "0.99": m.energy99},
        "spectrum": [float(s) for s in sigma],
        "retained": [retained(sigma, r) for r in range(1, len(sigma) + 1)],
    }
