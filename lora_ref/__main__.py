"""`python -m lora_ref` is the `lora-ref` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
