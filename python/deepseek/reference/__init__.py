"""The oracle: a numpy interpreter of modules at the end of `import` or `precision`.

It is test support. Every operation, frontend and phase is compared with it, so it favours
the textbook formula over speed and shares no code with the compiler. Each formula names its
source where it is defined.

    reference.run(text, x, weights={...})            # float64 everywhere
    reference.run(text, x, mode="strict")            # as typed, rounded after every operation
    reference.compare(actual, expected, 1e-5)        # max|a - b| <= 1e-5 * max|b|
"""

from __future__ import annotations

from deepseek.reference.compare import compare
from deepseek.reference.dequantize import FORMATS, dequantize
from deepseek.reference.interpreter import InterpreterError
from deepseek.reference.program import run

__all__ = ["FORMATS", "InterpreterError", "compare", "dequantize", "run"]
