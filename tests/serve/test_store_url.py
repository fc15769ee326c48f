"""Which databases the store takes, and where the password of one comes from and never goes."""

from __future__ import annotations

import logging

import pytest

from moss.errors import ConfigError
from moss.redaction import find_secret
from serve.store import Store, StoreUnavailableError
from serve.store.database import store_url

PASSWORD = "correct-horse-battery"


@pytest.mark.parametrize(
    ("database", "opened"),
    [
        ("/data/chat.sqlite", "sqlite:////data/chat.sqlite"),
        ("sqlite:////data/chat.sqlite", "sqlite:////data/chat.sqlite"),
        ("postgresql://moss@db/chat", "postgresql+psycopg://moss@db/chat"),
        ("postgresql+psycopg://moss@db:5433/chat", "postgresql+psycopg://moss@db:5433/chat"),
    ],
)
def test_a_file_or_a_postgres_url_is_taken(database: str, opened: str) -> None:
    assert str(store_url(database, {})) == opened


@pytest.mark.parametrize(
    "database", ["sqlite://", "sqlite:///:memory:", "mysql://a/b", "postgres://"]
)
def test_anything_else_is_refused_with_what_to_give(database: str) -> None:
    with pytest.raises(ConfigError, match=r"SQLite file.*postgresql://user@host/database"):
        store_url(database, {})


def test_the_password_comes_from_the_environment_and_stands_in_no_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = store_url("postgresql://moss@127.0.0.1:9/chat", {"PGPASSWORD": PASSWORD})
    assert (url.password, PASSWORD in str(url)) == (PASSWORD, False)
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with pytest.raises(StoreUnavailableError) as raised:
        Store("postgresql://moss@127.0.0.1:9/chat")
    assert PASSWORD not in f"{raised.value} {raised.value.__cause__} {caplog.text}"


def test_a_config_with_a_password_in_its_database_is_refused() -> None:
    assert find_secret(f"database: postgresql://moss:{PASSWORD}@db/chat\n") is not None
    assert find_secret("database: postgresql://moss@db/chat\n") is None
