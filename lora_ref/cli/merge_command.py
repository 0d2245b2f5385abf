"""`lora-ref merge`: write the correctly rounded merge under a progress bar."""

import os

from ..checkpoint.checkpoint import Checkpoint
from ..pages.printable import printable
from ..verify.merge import DTYPES_OF_MERGE, merge
from .failures import Usage, refuse_empty
from .progress import progress
from .terminal import print_lines


def merge_command(base: str, adapter: str, out: str, dtype: str | None, force: bool) -> int:
    """Merge, and say what was written; the exit status."""
    refuse_empty({"--base": base, "--adapter": adapter, "--out": out})
    if dtype is not None and dtype not in DTYPES_OF_MERGE:
        raise Usage(f"--dtype must be one of {', '.join(DTYPES_OF_MERGE)}, got {dtype!r}")
    with progress(len(Checkpoint.open(base).names)) as advance:
        done = merge(base, adapter, out, dtype=dtype, overwrite=force, progress=advance)
    counts = (
        (len(done.updated), "updated"),
        (len(done.replaced), "replaced by the adapter's copy"),
        (len(done.added), "added from the adapter"),
        (done.converted, "converted"),
        (done.copied, "copied unchanged"),
    )
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    print_lines(f"{printable(os.fspath(out))}: {said}")
    if done.overflowed:
        print_lines(f"note: {done.overflowed:,} elements overflow the stored dtype: now inf")
    for note in done.notes:
        print_lines(f"note: {printable(note)}")
    return 0
