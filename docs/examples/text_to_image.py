"""Pictures (paper, Fig. 9).

Usage: python docs/examples/text_to_image.py http://127.0.0.1:8000
"""

from __future__ import annotations

from conversation import hold

if __name__ == "__main__":
    raise SystemExit(
        hold(
            "text_to_image",
            [
                ["Draw a red fox.", "Draw a blue bird."],
                ["画一只红色的狐狸。", "画一只蓝色的鸟。"],
            ],
        )
    )
