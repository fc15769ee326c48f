import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from moss import storage
from moss.errors import DataError, ManifestError
from moss.manifest import (
    Cost,
    InputRun,
    Manifest,
    OutputFile,
    check_counts,
    count_statuses,
    is_finished,
    load_manifest,
    write_manifest,
)


def _manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "stage": "train_sft",
        "run_id": "MOSS-SFT",
        "model_name": "MOSS-SFT",
        "code_version": "v1",
        "config_digest": "c",
        "inputs": {"model": InputRun(path="MOSS-base", digest="d")},
        "outputs": (OutputFile(path="data/a", size_bytes=1, sha256="s"),),
        "counts": {"train": {"ok": 3, "failed": 1}},
        "seconds": 1.5,
        "created_at": "2024-01-01T00:00:00+00:00",
    }
    return Manifest.model_validate({**values, **changes})


def _load_or_complaint(place: str) -> Manifest | str:
    try:
        return load_manifest(place)
    except ManifestError as error:
        return str(error)


def test_a_manifest_is_read_back_equal(place: str) -> None:
    manifest = _manifest(
        cost=Cost(num_calls=2, stand_in=True, by_model={"gpt-4": {"num_calls": 2, "usd": 0.5}}),
        metrics={"train/loss_nats": 1.25},
        notes=("一个模型",),
    )
    assert not is_finished(place)
    write_manifest(place, manifest)
    assert is_finished(place)
    assert load_manifest(place) == manifest
    stored = storage.read_json(storage.join(place, "manifest.json"))
    assert isinstance(stored, dict)
    assert stored["manifest_digest"] == manifest.manifest_digest


def test_the_digest_covers_content_and_not_time_code_cost_or_place() -> None:
    digest = _manifest().manifest_digest
    same = {
        "seconds": 9.0,
        "created_at": "later",
        "code_version": "v2",
        "cost": Cost(num_calls=1),
        "notes": ("a",),
        "inputs": {"model": InputRun(path="/moved/MOSS-base", digest="d")},
    }
    for name, value in same.items():
        assert _manifest(**{name: value}).manifest_digest == digest, name
    other = {
        "config_digest": "x",
        "inputs": {"model": InputRun(path="MOSS-base", digest="x")},
        "outputs": (OutputFile(path="data/a", size_bytes=1, sha256="x"),),
        "counts": {"train": {"ok": 4}},
        "model_name": None,
    }
    for name, value in other.items():
        assert _manifest(**{name: value}).manifest_digest != digest, name


def test_equal_rows_in_other_bytes_have_an_equal_digest() -> None:
    one, two = (
        _manifest(
            outputs=(OutputFile(path="a", size_bytes=1, sha256=sha, rows=1, rows_digest="r"),)
        )
        for sha in ("one", "two")
    )
    assert one.manifest_digest == two.manifest_digest


def test_any_flipped_or_missing_byte_of_a_manifest_is_found(place: str) -> None:
    write_manifest(place, _manifest())
    path = storage.join(place, "manifest.json")
    whole = storage.read_bytes(path)
    for at in range(0, len(whole) - 1, 7):
        storage.write_bytes(path, whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        outcome = _load_or_complaint(place)
        if isinstance(outcome, str):
            assert "manifest.json" in outcome
            assert "--restart" in outcome
        else:
            assert outcome == _manifest(), f"byte {at} changed the manifest unseen"
    storage.write_bytes(path, whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"manifest\.json cannot be read"):
        load_manifest(place)


def test_an_unfinished_run_says_so(place: str) -> None:
    with pytest.raises(ManifestError, match="absent or not finished; run its stage first"):
        load_manifest(place)


def test_secrets_are_blacked_out(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-0123456789abcdef")
    notes = ("key sk-0123456789abcdef", "from https://user:hunter2@host/v1")
    write_manifest(place, _manifest(notes=notes))
    text = storage.read_text(storage.join(place, "manifest.json"))
    assert "sk-0123456789abcdef" not in text
    assert "hunter2" not in text
    assert load_manifest(place).notes == ("key [redacted]", "from https://[redacted]@host/v1")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "", "s3://b/x"])
def test_an_output_outside_the_run_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="relative"):
        OutputFile(path=path, size_bytes=0, sha256="s")


def test_counts_must_add_up() -> None:
    check_counts(6, {"ok": 3, "failed": 2, "filtered": 1, "skipped": 0}, step="judge")
    with pytest.raises(DataError, match=r"'judge' took 7 rows but accounts for 6 \(3 ok \+ 2 fai"):
        check_counts(7, {"ok": 3, "failed": 2, "filtered": 1}, step="judge")
    with pytest.raises(DataError, match=r"counts \['lost'\]"):
        check_counts(1, {"lost": 1}, step="judge")
    with pytest.raises(DataError, match="accounts for"):
        check_counts(0, {"ok": 1, "failed": -1}, step="judge")


def test_statuses_of_rows_are_counted_and_unknown_ones_refused() -> None:
    rows = [{"status": "ok"}, {"status": "failed"}, {"status": "ok"}]
    assert count_statuses(rows) == {"ok": 2, "failed": 1, "filtered": 0, "skipped": 0}
    with pytest.raises(DataError, match=r"counts \['None'\]"):
        count_statuses([{"id": "no status"}])


def test_loading_a_manifest_imports_nothing_heavy() -> None:
    script = (
        "import sys, json, moss.lineage, moss.checkpoints, moss.progress, moss.tracking\n"
        "heavy = ['torch', 'ray', 'transformers', 'pyarrow', 'tensorboard']\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PYTHONPATH": "platform"},
    )
    assert json.loads(done.stdout) == []


def test_another_layout_of_a_page_is_no_other_work() -> None:
    pages = [
        OutputFile(path="report.html", size_bytes=n, sha256=str(n), rows=None, rows_digest=None)
        for n in (1, 2)
    ]
    first, second = (_manifest(views=(page,)) for page in pages)
    assert first.manifest_digest == second.manifest_digest == _manifest().manifest_digest


def test_a_mistyped_run_gets_the_nearest_finished_one(tmp_path: Path) -> None:
    write_manifest(str(tmp_path / "MOSS-SFT"), _manifest())
    complaint = _load_or_complaint(str(tmp_path / "MOS-SFT"))
    assert "absent or not finished (did you mean 'MOSS-SFT'?)" in str(complaint)
    assert "did you mean" not in str(_load_or_complaint(str(tmp_path / "prompts")))
