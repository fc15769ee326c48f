"""Facts with references (paper, Fig. 9).

Usage: python docs/examples/web_search.py http://127.0.0.1:8000
"""

from __future__ import annotations

from conversation import hold

if __name__ == "__main__":
    raise SystemExit(
        hold(
            "web_search",
            [
                ["What is the capital of France?", "What is the capital of Japan?"],
                ["法国的首都是哪里?", "日本的首都是哪里?"],
            ],
        )
    )
