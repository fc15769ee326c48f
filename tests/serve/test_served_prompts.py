"""From a real store to exports: consent, withdrawal, deletion and repeats, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from jobs import collect_prompts
from jobs.entry import EXIT_CONFIG
from moss import storage
from moss.collection import clean
from moss.config.synthesis import CollectPromptsConfig, DedupConfig
from moss.errors import DataError
from moss.forgetting import EXPORT, runs_made_from, taken_back
from moss.lineage import Run, is_finished
from moss.served_prompts import forgotten_rows, read_served_prompts
from moss.synthesis_inputs import load_served_prompts
from serve.store import Store
from tests.serve.test_store import turn_of


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


@pytest.fixture
def source(database_url: str) -> str:
    return database_url.removeprefix("sqlite:///").replace("+psycopg", "")


def ask(store: Store, prompt: str, owner: str = "ann", consent: str = "improve") -> tuple[str, str]:
    turn = replace(turn_of(prompt), consent=consent)  # type: ignore[arg-type]
    return store.add_turn(owner, None, turn, replaces=None)


def texts(source: str) -> list[object]:
    return [row["text"] for row in read_served_prompts(source)]


def test_only_consented_text_leaves_the_store_oldest_first(store: Store, source: str) -> None:
    ask(store, "first question")
    ask(store, "a private question", consent="none")
    ask(store, "second question", owner="bob", consent="improve_with_replies")
    rows = read_served_prompts(source)
    assert [row["text"] for row in rows] == ["first question", "", "second question"]
    assert [row["consent"] for row in rows] == [True, False, True]
    assert read_served_prompts(source) == rows


def test_deleted_and_withdrawn_turns_are_left_out_of_later_exports(
    store: Store, source: str
) -> None:
    ask(store, "kept")
    ask(store, "withdrawn", owner="bob")
    before = {row["text"]: row["id"] for row in read_served_prompts(source)}
    deleted, _ = ask(store, "to delete")
    exported = {row["text"]: str(row["id"]) for row in read_served_prompts(source)}
    assert forgotten_rows(source) == set()
    store.delete_conversation("ann", deleted)
    store.record_consent("bob", "none")
    assert texts(source) == ["kept", ""]
    assert forgotten_rows(source) == {exported["to delete"], exported["withdrawn"]}
    assert exported["kept"] == before["kept"]


def test_a_turn_that_a_backup_brings_back_stays_deleted(
    store: Store, source: str, database_url: str
) -> None:
    turn = replace(turn_of("restored"), id="7" * 32, consent="improve")
    conversation_id, _ = store.add_turn("ann", None, turn, replaces=None)
    store.delete_conversation("ann", conversation_id)
    store.add_turn("ann", None, turn, replaces=None)
    assert store.consented_prompts() != []
    assert texts(source) == []


def test_asking_again_for_another_answer_is_no_second_wish(store: Store, source: str) -> None:
    question = replace(turn_of("What is the capital of France?"), consent="improve")
    conversation_id, first = store.add_turn("ann", None, question, replaces=None)
    store.add_turn("ann", conversation_id, question, replaces=first)
    store.add_turn("ann", conversation_id, question, replaces=None)  # typed once more
    store.add_turn("bob", None, question, replaces=None)
    cleaned = clean(read_served_prompts(source), DedupConfig())
    assert sorted(str(row["step"]) for row in cleaned) == ["clean", "dedup", "dedup", "repeat"]
    assert [row["frequency"] for row in cleaned if row["status"] == "ok"] == [3]


def test_a_finished_export_tells_what_was_taken_back_and_who_read_it(
    store: Store, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(store, "kept")
    deleted, _ = ask(store, "taken back")
    workspace = str(tmp_path / "runs")
    config = CollectPromptsConfig(workspace=workspace, run_id="collected", source=source)
    assert taken_back(config) == []
    export(config)
    assert taken_back(config) == []
    store.delete_conversation("ann", deleted)
    rows = storage.read_rows(storage.join(workspace, "collected", EXPORT))
    assert taken_back(config) == [row["id"] for row in rows if row["text"] == "taken back"]

    for run_id, parent in (("prompts", "collected"), ("conversations", "prompts"), ("other", "")):
        reader = CollectPromptsConfig(workspace=workspace, run_id=run_id)
        inputs = {"seeds": reader.run_path(parent)} if parent else {}
        with Run.open(reader, "read", inputs=inputs) as run:
            storage.write_text(run.path("out.txt"), run_id)
            run.finish(outputs=["out.txt"], counts={})
    assert runs_made_from(workspace, "collected") == ["conversations", "prompts"]

    collect_prompts._purge(config)
    said = capsys.readouterr().out
    assert "1 exported prompts were taken back" in said
    assert "conversations, prompts; run them with --restart" in said
    assert not is_finished(storage.join(workspace, "collected"))
    export(config)
    collect_prompts._purge(config)
    assert "no exported prompt was taken back" in capsys.readouterr().out
    assert is_finished(storage.join(workspace, "collected"))


def test_only_a_store_says_what_was_taken_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--purge", "--workspace", str(tmp_path), "--set", "source=prompts.parquet"]
    assert collect_prompts.main(flags) == EXIT_CONFIG
    assert "no store of the chat service" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def export(config: CollectPromptsConfig) -> None:
    """What the stage writes, without a teacher: the texts under their ids."""
    rows = load_served_prompts(config)
    assert rows is not None
    with Run.open(config, "collect_prompts", inputs={}) as run:
        written = [{"id": row["id"], "text": row["text"], "status": "ok"} for row in rows]
        storage.write_rows(run.path(*EXPORT.split("/")), written)
        run.finish(outputs=["data"], counts={})


def test_a_store_of_an_older_version_is_named_as_one(
    store: Store, source: str, database_url: str
) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE tombstone"))
    engine.dispose()
    with pytest.raises(DataError, match=r"one of an older version.*migrate_store"):
        read_served_prompts(source)
