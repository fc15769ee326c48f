"""Equations, solved by SymPy (paper, Fig. 9).

Usage: python docs/examples/equation_solver.py http://127.0.0.1:8000
"""

from __future__ import annotations

from conversation import hold

if __name__ == "__main__":
    raise SystemExit(
        hold(
            "equation_solver",
            [
                ["Solve 3x+4=19.", "Solve 7x-12=44."],
                ["解方程3x+4=19。", "解方程7x-12=44。"],
            ],
        )
    )
