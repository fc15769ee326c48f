"""Arithmetic that the model does not do in its head (paper, Fig. 9).

Usage: python docs/examples/calculator.py http://127.0.0.1:8000
"""

from __future__ import annotations

from conversation import hold

if __name__ == "__main__":
    raise SystemExit(
        hold(
            "calculator",
            [
                ["What is 37*43+5?", "What is 12*9?"],
                ["37*43+5等于多少?", "12*9等于多少?"],
            ],
        )
    )
