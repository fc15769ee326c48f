"""The file of API keys: what it may hold, how it grows, when it is read again."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml

from moss.api_keys import ApiKeyFile, append_key, key_digest, new_key, read_keys
from moss.config.api_keys import ApiKeyConfig
from moss.errors import ConfigError, StorageError

SECRET = "moss-this-is-a-key-and-must-never-be-shown"


def entry(label: str = "alice", **changes: Any) -> dict[str, Any]:
    return {"sha256": key_digest(label), "label": label, **changes}


def write(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"keys": list(entries)}), encoding="utf-8")
    return path


def labels(keys: Sequence[ApiKeyConfig]) -> list[str]:
    return [key.label for key in keys]


def test_what_an_entry_leaves_out_is_unlimited(tmp_path: Path) -> None:
    (key,) = read_keys(write(tmp_path / "keys.yaml", entry()))
    assert key == ApiKeyConfig(sha256=key_digest("alice"), label="alice")
    assert not key.revoked
    assert key.allows_tool("calculator")
    assert key.allows_model("any")
    limits = (key.expires, key.requests_per_minute, key.tokens_per_minute, key.max_ongoing)
    assert limits == (None, None, None, None)


def test_the_readme_shows_every_key_of_an_entry(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    file = tmp_path / "keys.yaml"
    file.write_text("keys:" + page.partition("```yaml\nkeys:")[2].partition("```")[0])
    (key,) = read_keys(file)
    assert key.model_fields_set == set(ApiKeyConfig.model_fields)


def test_an_empty_list_of_tools_or_models_allows_none(tmp_path: Path) -> None:
    (key,) = read_keys(write(tmp_path / "keys.yaml", entry(tools=[], models=[])))
    assert not key.allows_tool("calculator")
    assert not key.allows_model("any")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        ("2030-01-31T12:00:00", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31 12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("'2030-01-31T12:00+08:00'", datetime(2030, 1, 31, 4, tzinfo=UTC)),
        ("2030-01-31T12:00:00+08:00", datetime(2030, 1, 31, 4, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_utc_unless_it_names_an_offset(
    tmp_path: Path, text: str, moment: datetime
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"keys:\n- {{sha256: {key_digest('a')}, label: a, expires: {text}}}\n")
    assert read_keys(file)[0].expires == moment


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{key_digest('a')} alice\n", "mapping"),
        ("", "mapping"),
        ("keys: {}\n", "list"),
        (f"keys: {SECRET}\n", "list"),
        (f"keys: [{SECRET}]\n", "entry 1 .* sha256"),
        (f"keys:\n- {{sha256: {SECRET}, label: a}}\n", "entry 1 .* sha256"),
        (f"keys:\n- {{key: {SECRET}, label: a}}\n", "entry 1 .* sha256"),
        (f"keys:\n- sha256: {key_digest('a')}\n  label: a\n  key: {SECRET}\n", "unknown key.*key"),
        (f"keys:\n- sha256: {SECRET}: x: y\n", "valid YAML at line 2"),
        (f"keys:\n- {{sha256: {key_digest('a').upper()}, label: a}}\n", "entry 1 .* sha256"),
        ("kesy: []\n", "did you mean 'keys'"),
        (
            f"keys:\n- sha256: {key_digest('a')}\n  label: a\n  {SECRET}: 1\n  {SECRET}: 2\n",
            "line 5.*stands once",
        ),
        (
            f"keys:\n- sha256: {key_digest('a')}\n  label: a\n  revoked: true\n  revoked: false\n",
            "line 5.*stands once",
        ),
    ],
)
def test_a_malformed_file_is_refused_and_what_may_be_a_key_is_not_shown(
    tmp_path: Path, text: str, named: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        read_keys(file)
    assert SECRET not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"label": ""}, "label"),
        ({"tools": ["calculater"]}, "tools"),
        ({"tools": "calculator"}, "tools"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -1}, "tokens_per_minute"),
        ({"max_ongoing": 0}, "max_ongoing"),
        ({"expires": "soon"}, "expires"),
        ({"revokd": True}, "revoked"),
    ],
)
def test_a_bad_value_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        read_keys(write(tmp_path / "keys.yaml", {**entry(), **changes}))


def test_one_key_has_one_entry(tmp_path: Path) -> None:
    twice = {**entry("alice"), "label": "bob"}
    with pytest.raises(ConfigError, match="'alice' and 'bob' are one key"):
        read_keys(write(tmp_path / "keys.yaml", entry("alice"), twice))


def test_an_absent_file_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make_api_key"):
        read_keys(tmp_path / "none.yaml")


def test_keys_are_long_random_and_all_different() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 43


def appended(path: Path, label: str = "new", **changes: Any) -> ApiKeyConfig:
    key = ApiKeyConfig.model_validate(entry(label, **changes))
    append_key(path, key)
    return key


def test_an_absent_file_is_made_and_grows_entry_by_entry(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "keys.yaml"
    first = appended(
        file, "阿丽 # 1", expires=datetime(2030, 1, 31, tzinfo=timezone(timedelta(hours=8))),
        tools=["calculator"], models=[], requests_per_minute=60, max_ongoing=2,
    )  # fmt: skip
    second = appended(file, "bob: no", revoked=True, tokens_per_minute=1)
    assert read_keys(file) == (first, second)


@pytest.mark.parametrize("indent", ["", "  ", "    "])
@pytest.mark.parametrize("end", ["", "\n", "\n\n# the end\n"])
def test_appending_keeps_comments_and_indentation(tmp_path: Path, indent: str, end: str) -> None:
    text = f"# ours\nkeys:\n{indent}# the first\n{indent}- sha256: {key_digest('a')}\n"
    text += f"{indent}  label: a  # a - b{end}"
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    appended(file)
    assert file.read_text().startswith(text)
    assert labels(read_keys(file)) == ["a", "new"]


@pytest.mark.parametrize(
    "text", ["keys: []\n", f"keys: [{{sha256: {key_digest('a')}, label: a}}]\n", "keys: nonsense\n"]
)
def test_a_file_without_a_place_for_an_entry_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        appended(file)
    assert file.read_text() == text


def test_a_key_is_not_listed_twice(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    appended(file)
    before = file.read_text()
    with pytest.raises(ConfigError, match="one key"):
        appended(file)
    assert file.read_text() == before


def test_appending_keeps_the_mode_and_follows_a_link(tmp_path: Path) -> None:
    file = write(tmp_path / "real.yaml", entry())
    file.chmod(0o600)
    link = tmp_path / "keys.yaml"
    link.symlink_to(file)
    appended(link)
    assert link.is_symlink()
    assert labels(read_keys(file)) == ["alice", "new"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_of_writers_at_once_every_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    names = [f"user {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: appended(file, name), names))
    assert sorted(labels(read_keys(file))) == sorted(names)
    assert [path.name for path in tmp_path.iterdir()] == ["keys.yaml"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        appended(tmp_path / "file" / "keys.yaml")


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    file = ApiKeyFile(str(path))
    assert labels(file.keys) == ["a"]
    write(path, entry("a", revoked=True), entry("b"))
    assert [key.revoked for key in file.keys] == [True, False]
    appended(path, "c")
    assert labels(file.keys) == ["a", "b", "c"]
    monkeypatch.setattr("moss.api_keys.read_keys", lambda _: pytest.fail("read without a change"))
    assert labels(file.keys) == ["a", "b", "c"]


def test_a_replacement_of_the_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"))
    file = ApiKeyFile(str(path))
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    other = write(tmp_path / "other.yaml", entry("b"))
    os.utime(other, ns=times)
    other.replace(path)
    assert labels(file.keys) == ["b"]


def test_an_invalid_or_absent_file_keeps_the_old_keys_and_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys.yaml", entry("a"), entry("b"))
    file = ApiKeyFile(str(path))

    def spoil() -> None:
        path.write_text(f"keys: [{SECRET}]\n")

    for number, change in enumerate((spoil, path.unlink), start=1):
        change()
        assert labels(file.keys) == ["a", "b"]
        assert labels(file.keys) == ["a", "b"]
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == number
        assert str(path) in errors[-1].getMessage()
    assert SECRET not in caplog.text
    write(path, entry("c"))
    assert labels(file.keys) == ["c"]


def test_a_relative_path_is_of_the_folder_it_was_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "keys.yaml", entry("a"))
    file = ApiKeyFile("keys.yaml")
    monkeypatch.chdir("/")
    write(tmp_path / "keys.yaml", entry("b"), entry("c"))
    assert labels(file.keys) == ["b", "c"]
