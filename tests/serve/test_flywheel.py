"""From the chat store through `jobs.collect_prompts` to the next round's seeds, and back out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from jobs import collect_prompts
from moss import storage
from moss.config.synthesis import SynthesisConfig, SynthesizePromptsConfig
from moss.lineage import load_manifest
from moss.synthesis_inputs import load_prompt_seeds
from serve.store import Store
from tests import stub_teacher
from tests.local_session import LocalSession
from tests.serve.test_store import turn_of
from tests.stub_endpoint import StubEndpoint, running

QUESTIONS = [
    "What is the capital of Norway, and since when?",
    "Write a Python function that adds four to a number.",
    "请写一首关于雨的短诗，谢谢你。",
    "Why does bread rise when it is baked slowly?",
]
SECRET = "Why is Unforgettable4711 the name of my village?"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/runs/chat-store/chat.sqlite")
    yield store
    store.close()


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A config of the job over the store, with a teacher in this process and no cluster."""

    @contextmanager
    def local_session(config: SynthesisConfig, *_: object, **__: object) -> Iterator[LocalSession]:
        yield LocalSession(config, str(tmp_path / "runs" / "ledger"), seed=config.seed)

    monkeypatch.setattr("actors.session.teacher_session", local_session)
    with running(StubEndpoint(stub_teacher.respond, models=stub_teacher.MODELS)) as endpoint:
        values = {
            "workspace": str(tmp_path / "runs"), "run_id": "collected", "num_seeds": 10,
            "source": "chat-store/chat.sqlite", "teacher": {"base_url": endpoint.base_url},
        }  # fmt: skip
        file = tmp_path / "collect.yaml"
        file.write_text(yaml.safe_dump(values))
        yield str(file)


def ask(store: Store, prompt: str, consent: str = "improve") -> str:
    turn = replace(turn_of(prompt), consent=consent)  # type: ignore[arg-type]
    return store.add_turn("ann", None, turn, replaces=None)[0]


def files_with(folder: Path, text: str) -> list[str]:
    """Files of a run that hold a text, as bytes or in a row of Parquet."""
    return [
        file.name
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and (
            text.encode() in file.read_bytes()
            or (file.suffix == ".parquet" and text in repr(storage.read_rows(str(file))))
        )
    ]


def test_a_store_whose_users_all_declined_is_collected_as_nothing(
    store: Store, config_file: str, tmp_path: Path
) -> None:
    for question in QUESTIONS:
        ask(store, question, consent="none")
    assert collect_prompts.main(["--config", config_file]) == 0
    run = tmp_path / "runs" / "collected"
    counts = load_manifest(str(run)).counts
    assert (counts["clean"].ok, counts["clean"].filtered) == (0, len(QUESTIONS))
    assert counts["select"].ok == 0
    rows = storage.read_rows(str(run / "data" / "collected.parquet"))
    assert {(row["text"], row["status"]) for row in rows} == {("", "filtered")}
    assert "Every row came through" not in (run / "report.html").read_text(encoding="utf-8")


def test_consented_prompts_become_seeds_until_their_users_take_them_back(
    store: Store, config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for question in QUESTIONS:
        ask(store, question)
    ask(store, "This private question is nobody's business.", consent="none")
    secret = ask(store, SECRET)
    run = tmp_path / "runs" / "collected"

    assert collect_prompts.main(["--config", config_file]) == 0
    domains = ("complex_instruction", "code", "writing")
    seeds = load_prompt_seeds(
        SynthesizePromptsConfig(
            workspace=str(tmp_path / "runs"), run_id="prompts", seeds="collected",
            quotas={name: {"en": 1, "zh": 1} for name in domains},
        )
    )  # fmt: skip
    assert {seed.text for found in seeds.values() for seed in found} & {*QUESTIONS, SECRET}
    assert files_with(run, "nobody's business") == []
    assert "collected.parquet" in files_with(run, "Unforgettable4711")
    before = load_manifest(str(run))

    store.delete_conversation("ann", secret)
    assert collect_prompts.main(["--config", config_file]) == 0  # finished: nothing happens
    assert files_with(run, "Unforgettable4711") != []
    assert collect_prompts.main(["--config", config_file, "--purge"]) == 0
    assert "1 exported prompts were taken back" in capsys.readouterr().out
    assert files_with(tmp_path / "runs", "Unforgettable4711") == []
    after = load_manifest(str(run))
    assert after.counts["clean"].ok == before.counts["clean"].ok - 1
    kept = {row["text"] for row in storage.read_rows(str(run / "data" / "collected.parquet"))}
    assert kept == {*QUESTIONS, ""}
