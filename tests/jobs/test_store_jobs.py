"""Jobs on the chat store: migrations by hand, and the purge."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import migrate_store, purge_store
from jobs.entry import EXIT_CONFIG, EXIT_FAILED
from serve.store import Store
from tests.serve.test_store import turn_of


def test_a_store_goes_down_and_up_by_hand(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate_store.main(["--url", database_url, "--create"]) == 0
    assert migrate_store.main(["--url", database_url, "--to", "0001"]) == 0
    assert migrate_store.main(["--url", database_url, "--to", "head"]) == 0
    steps = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["empty -> 0002", "0002 -> 0001", "0001 -> 0002"]


def test_a_mistyped_path_is_refused_and_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = ["--url", str(tmp_path / "typo" / "chat.sqlite")]
    assert purge_store.main([*url, "--retention-days", "30"]) == EXIT_CONFIG
    assert migrate_store.main(url) == EXIT_CONFIG
    assert migrate_store.main([*url, "--to", "base"]) == EXIT_CONFIG
    assert capsys.readouterr().err.count(f"no chat store at {tmp_path}/typo/chat.sqlite") == 3
    assert not (tmp_path / "typo").exists()
    assert migrate_store.main([*url, "--create"]) == 0
    assert purge_store.main(url) == 0
    (tmp_path / "notes.txt").write_text("this is no database at all", encoding="utf-8")
    assert purge_store.main(["--url", str(tmp_path / "notes.txt")]) == EXIT_CONFIG
    assert "no SQLite database" in capsys.readouterr().err


def test_a_database_without_a_chat_store_is_not_purged(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate_store.main(["--url", database_url, "--create"]) == 0
    assert migrate_store.main(["--url", database_url, "--to", "base"]) == 0
    assert purge_store.main(["--url", database_url, "--retention-days", "30"]) == EXIT_CONFIG
    assert "no tables of the chat service" in capsys.readouterr().err


def test_dropping_filled_tables_needs_to_be_meant(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(database_url)
    store.add_turn("ann", None, turn_of(), replaces=None)
    store.close()
    base = ["--url", database_url, "--to", "base"]
    assert migrate_store.main(base) == EXIT_CONFIG
    assert "1 conversations" in capsys.readouterr().err
    assert migrate_store.main([*base, "--delete-everything"]) == 0
    store = Store(database_url)
    assert store.conversations("ann") == []
    store.close()


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--url", "mysql://x@y/z"], EXIT_CONFIG, "'mysql'"),
        (["--url", "sqlite://"], EXIT_CONFIG, "SQLite file"),
        (["--url", "postgresql://x@127.0.0.1:9/z"], EXIT_FAILED, "cannot be reached"),
    ],
)
def test_an_unusable_database_is_named(
    flags: list[str], code: int, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert migrate_store.main(flags) == code
    assert named in capsys.readouterr().err


def test_a_revision_that_does_not_exist_is_refused(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--url", database_url, "--create", "--to", "0099"]
    assert migrate_store.main(flags) == EXIT_CONFIG
    assert "0002" in capsys.readouterr().err


def test_the_purge_deletes_the_old_and_keeps_the_rest(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(database_url)
    store.add_turn("ann", None, turn_of(), replaces=None)
    assert purge_store.main(["--url", database_url, "--retention-days", "30"]) == 0
    assert len(store.conversations("ann")) == 1
    assert purge_store.main(["--url", database_url, "--retention-days", "1e-9"]) == 0
    assert store.conversations("ann") == []
    assert "1 turns deleted" in capsys.readouterr().out
    store.close()
