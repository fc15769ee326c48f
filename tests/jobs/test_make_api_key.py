"""Making a key: shown once, listed by its hash, accepted by the service."""

from pathlib import Path

import pytest

from jobs.entry import EXIT_CONFIG
from jobs.make_api_key import main
from moss.api_keys import key_digest, read_keys
from moss.config.serve import HttpConfig
from serve.auth import ApiKeys


def test_the_key_is_printed_once_and_its_hash_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    assert main(["--label", "alice", "--file", str(file)]) == 0
    out, notes = capsys.readouterr()
    key = out.strip()
    assert out == f"{key}\n"
    assert key not in notes
    assert key not in file.read_text()
    (entry,) = read_keys(file)
    assert (entry.sha256, entry.label) == (key_digest(key), "alice")
    keys = ApiKeys.load(HttpConfig(api_key_file=str(file)), {})
    assert keys.check(f"Bearer {key}").label == "alice"


def test_every_flag_reaches_the_entry_and_entries_add_up(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    main(["--label", "first", "--file", str(file)])
    flags = (
        "--expires 2030-01-31 --tools calculator web_search --models MOSS-PAT "
        "--requests-per-minute 60 --tokens-per-minute 9000 --max-ongoing 2"
    )
    assert main(["--label", "second", "--file", str(file), *flags.split()]) == 0
    first, second = read_keys(file)
    assert (first.label, first.tools, first.expires) == ("first", None, None)
    assert second.expires is not None
    assert second.expires.isoformat() == "2030-01-31T00:00:00+00:00"
    assert (second.tools, second.models) == (("calculator", "web_search"), ("MOSS-PAT",))
    limits = (second.requests_per_minute, second.tokens_per_minute, second.max_ongoing)
    assert limits == (60, 9000, 2)


def test_tools_without_names_are_none(tmp_path: Path) -> None:
    main(["--label", "a", "--file", str(tmp_path / "keys.yaml"), "--tools"])
    assert read_keys(tmp_path / "keys.yaml")[0].tools == ()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--tools", "Calculate"], "tools"),
        (["--expires", "soon"], "expires"),
        (["--max-ongoing", "0"], "max_ongoing"),
    ],
)
def test_a_bad_flag_makes_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    file = tmp_path / "keys.yaml"
    assert main(["--label", "a", "--file", str(file), *flags]) == EXIT_CONFIG
    out, error = capsys.readouterr()
    assert out == ""
    assert named in error
    assert not file.exists()


def test_a_malformed_file_is_left_alone_and_no_key_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("not a list of keys\n")
    assert main(["--label", "a", "--file", str(file)]) == EXIT_CONFIG
    assert capsys.readouterr().out == ""
    assert file.read_text() == "not a list of keys\n"
