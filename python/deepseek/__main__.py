"""`python -m deepseek` is the `deepseek` command."""

from __future__ import annotations

import sys

from deepseek.cli import main

if __name__ == "__main__":
    sys.exit(main())
