"""What is committed of the built page: it matches its source and loads nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).resolve().parents[2] / "serve" / "web"
DIST = WEB / "dist"
MENTIONED = {"www.w3.org", "github.com"}  # names of XML languages, addresses in error messages


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_the_built_page_is_what_its_source_builds(tmp_path: Path) -> None:
    if shutil.which("npx") is None or not (WEB / "node_modules" / "vite").is_dir():
        pytest.skip("the page's packages are not installed (npm install in serve/web)")
    for command in (["tsc", "--noEmit"], ["vite", "build", "--outDir", str(tmp_path / "dist")]):
        done = subprocess.run(
            ["npx", "--no-install", *command],
            cwd=WEB, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    built, committed = files(tmp_path / "dist"), files(DIST)
    differing = [name for name in built | committed if built.get(name) != committed.get(name)]
    assert differing == [], "run `make web` and commit serve/web/dist"


def test_the_built_page_is_text_without_maps_and_foreign_hosts() -> None:
    for name, content in files(DIST).items():
        text = content.decode("utf-8")
        assert "sourceMappingURL" not in text, name
        if name == "licenses.txt":
            continue
        loads = re.findall(r"""(?:src|href)=["'](?:https?:)?//|url\(["']?(?:https?:)?//""", text)
        assert loads == [], name
        hosts = set(re.findall(r"https?://([a-z0-9.-]+\.[a-z]{2,})", text)) - MENTIONED
        assert hosts == set(), name


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (DIST / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    assert "<style" not in page
    assert " style=" not in page


def test_packages_of_the_page_have_exact_versions() -> None:
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    versions = [
        *package["dependencies"].values(), *package["devDependencies"].values(),
        *package["overrides"].values(),
    ]  # fmt: skip
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)
    assert not list(WEB.glob("*lock*"))
