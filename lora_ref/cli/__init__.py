"""The `lora-ref` command: thin, no mathematics; needs the [cli] extra (typer, rich)."""

import sys

NEEDED = ("typer", "rich")


def main(arguments: list[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of the process); return the exit status."""
    try:
        from .app import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        message = f"lora-ref: the command line needs {error.name}: pip install 'lora-ref[cli]'"
        sys.stderr.write(f"{message}\n")
        return 2
    return run(arguments)
