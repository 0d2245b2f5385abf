"""Is a merged checkpoint right? Rounding or a bug, and which bug."""

from ..verdict.findings import Status
from .judge import Verdict
from .verify import Report, verify

__all__ = ["Report", "Status", "Verdict", "verify"]
