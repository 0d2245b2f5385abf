"""The report as JSON, for programs. The schema is described in docs/verify.md.

The same inputs give the same bytes: there is no time stamp in it.

Limits:
    JSON has no NaN and no infinity: they are the strings "NaN", "Infinity" and "-Infinity"; a
    figure that is not defined (c where there is no update) is null. Error maps are left out.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from ..checkpoint.peft_config import LoraConfig
from ..pages import plain_json
from ..pages.plain_json import plain
from .judge import Verdict
from .summary import STATUSES, exit_status, groups, headline, overall, swallowed
from .verify import Report

SCHEMA = "lora-ref/verify"
SCHEMA_VERSION = 1


def as_json(report: Report, config: LoraConfig, *, strict: bool, version: str) -> bytes:
    """The report as indented ASCII JSON with a final newline; `config` is the adapter's."""
    return plain_json.as_json(as_fields(report, config, strict=strict, version=version))


def as_fields(report: Report, config: LoraConfig, *, strict: bool, version: str) -> dict[str, Any]:
    """The report as what `json` can write."""
    missing = swallowed(report)
    fields = {
        **plain_json.heading(SCHEMA, SCHEMA_VERSION, version, numpy=np.__version__),
        "inputs": {"base": report.base, "adapter": report.adapter, "merged": report.merged},
        "adapter": _settings(config),
        "strict": strict,
        "verdict": overall(report).value,
        "exit_status": exit_status(report, strict),
        "counts": {status.value: report.count(status) for status in STATUSES},
        "swallowed": asdict(missing),
        "notes": list(report.notes),
        "diagnoses": [
            {
                "name": group.name,
                "summary": headline(report, group),
                "cases": [asdict(case) for case in group.cases],
            }
            for group in groups(report)
        ],
        "tensors": [_tensor(verdict) for verdict in report.verdicts],
    }
    return plain(fields)


def _settings(config: LoraConfig) -> dict[str, Any]:
    """The settings that decide numbers, as they were read."""
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "bias": config.bias,
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": list(config.modules_to_save),
        "target_modules": config.target_modules,
        "target_parameters": list(config.target_parameters),
    }


def _tensor(verdict: Verdict) -> dict[str, Any]:
    info, figures = verdict.info, verdict.measure
    return {
        "name": verdict.name,
        "verdict": verdict.status.value,
        "text": verdict.text,
        "module": verdict.module,
        "dtype": info.dtype if info else None,
        "shape": list(info.shape) if info else None,
        "recipe": verdict.recipe,
        "measure": None
        if figures is None
        else {
            "elements": figures.elements,
            "c": figures.c,
            "rho": figures.rho,
            "correctly_rounded": figures.correctly_rounded,
            "worst_ulps": figures.worst_ulps,
            "worst_at": list(figures.worst_at),
            "relative_update": figures.relative_update,
            "decidable": figures.decidable,
            "unchanged": figures.unchanged,
            "not_finite": figures.not_finite,
        },
        "diagnoses": [
            {
                "name": d.name,
                "formula": d.formula,
                "explained": d.explained,
                "how": d.how,
                "proved": d.proved,
            }
            for d in verdict.diagnoses
        ],
    }
