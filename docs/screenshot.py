"""Takes the README's picture of the chat page, from a service that runs.

Usage: python docs/screenshot.py --url http://127.0.0.1:8000 [--out docs/chat.webp]
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

PROMPTS = ("What is the capital of France?", "What is 37*43+5?")
SIZE = {"width": 1200, "height": 810}
TIMEOUT_MS = 60_000
MAX_BYTES = 150_000


def take(url: str, executable: str) -> bytes:
    """PNG of the page after the prompts were answered."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, locale="en-US", color_scheme="light")
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(url)
        page.locator(".switches .chip").first.wait_for()
        for number, prompt in enumerate(PROMPTS):
            page.fill("#message", prompt)
            page.press("#message", "Enter")
            page.locator(".exchange").nth(number).locator(".answer > .actions").wait_for()
        page.locator(".entry").first.wait_for()
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)  # the last animation has ended
        picture: bytes = page.screenshot()
        browser.close()
    return picture


def main() -> None:
    """Write the picture, small enough for a repository."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="address of the service, as `make demo` says")
    parser.add_argument("--out", type=Path, default=Path("docs/chat.webp"))
    options = parser.parse_args()
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    if executable is None:
        parser.error("there is no Chromium on PATH; as root: apt-get install chromium")
    image = Image.open(io.BytesIO(take(options.url, executable))).convert("RGB")
    image.save(options.out, format="WEBP", lossless=True, quality=100, method=6)
    num_bytes = options.out.stat().st_size
    if num_bytes > MAX_BYTES:
        parser.error(f"{options.out} has {num_bytes} bytes, at most {MAX_BYTES} are wanted")
    print(f"{options.out}: {num_bytes} bytes")


if __name__ == "__main__":
    main()
