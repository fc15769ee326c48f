"""The size checker counts what it says it counts."""

from pathlib import Path

from tests.checks import sizes


def write_module(root: Path, text: str) -> Path:
    file = root / "actors" / "module.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def function_of(num_lines: int) -> str:
    return "def long() -> None:\n" + "    pass\n" * (num_lines - 1)


def test_a_module_at_the_limit_passes_and_one_line_more_does_not(tmp_path: Path) -> None:
    write_module(tmp_path, "x = 1\n" * sizes.MAX_MODULE_LINES)
    assert sizes.oversized(tmp_path) == []
    write_module(tmp_path, "x = 1\n" * (sizes.MAX_MODULE_LINES + 1))
    assert "301 lines" in sizes.oversized(tmp_path)[0]


def test_a_function_at_the_limit_passes_and_one_line_more_does_not(tmp_path: Path) -> None:
    write_module(tmp_path, function_of(sizes.MAX_FUNCTION_LINES))
    assert sizes.oversized(tmp_path) == []
    write_module(tmp_path, function_of(sizes.MAX_FUNCTION_LINES + 1))
    assert "actors/module.py:1: long has 61 lines" in sizes.oversized(tmp_path)[0]


def test_a_method_of_a_class_is_counted_too(tmp_path: Path) -> None:
    body = function_of(sizes.MAX_FUNCTION_LINES + 1).replace("\n", "\n    ").rstrip()
    write_module(tmp_path, f"class Holder:\n    {body}\n")
    assert len(sizes.oversized(tmp_path)) == 1
