"""Is a merged checkpoint right? Rounding or a bug, and which bug."""

from .judge import BUG, EXACT, ROUNDING, UNDECIDABLE, Verdict
from .verify import Report, verify

__all__ = ["BUG", "EXACT", "ROUNDING", "UNDECIDABLE", "Report", "Verdict", "verify"]
