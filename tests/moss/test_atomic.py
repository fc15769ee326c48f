from collections.abc import Callable, Sequence
from pathlib import Path

from moss.atomic import TEMPORARY_MARK, replace_file, replace_folder

KillAt = Callable[[str, Sequence[str]], dict[str, Path]]


def test_a_killed_file_write_leaves_the_old_content_or_the_new(kill_at: KillAt) -> None:
    body = (
        "from pathlib import Path\n"
        "from moss.atomic import replace_file\n"
        "def body(folder):\n"
        "    Path(folder).mkdir()\n"
        "    (Path(folder) / 'file').write_bytes(b'old' * 1000)\n"
        "    replace_file(Path(folder) / 'file', b'new' * 1000)\n"
    )
    points = ["storage/temp_created", "storage/temp_written", "storage/renamed"]
    folders = kill_at(body, points)
    contents = [(folders[point] / "file").read_bytes()[:3] for point in points]
    assert contents == [b"old", b"old", b"new"]


def test_a_killed_folder_publish_leaves_a_whole_folder_or_none(kill_at: KillAt) -> None:
    body = (
        "from pathlib import Path\n"
        "from moss.atomic import replace_folder\n"
        "def body(folder):\n"
        "    for name, text in (('target', 'old'), ('source', 'new')):\n"
        "        (Path(folder) / name).mkdir(parents=True)\n"
        "        for file in 'ab':\n"
        "            (Path(folder) / name / file).write_text(text)\n"
        "    replace_folder(Path(folder) / 'source', Path(folder) / 'target')\n"
    )
    points = ["folder/arrived", "folder/old_aside", "folder/renamed"]
    folders = kill_at(body, points)

    def contents(point: str) -> list[str]:
        return [file.read_text() for file in sorted((folders[point] / "target").glob("*"))]

    assert [contents(point) for point in points] == [["old", "old"], [], ["new", "new"]]


def test_a_write_leaves_no_temporary_names_behind(tmp_path: Path) -> None:
    replace_file(tmp_path / "a" / "file", b"1")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"2")
    replace_folder(tmp_path / "source", tmp_path / "a" / "folder")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert names == ["a", "a/file", "a/folder", "a/folder/file"]
    assert not [name for name in names if TEMPORARY_MARK in name]
