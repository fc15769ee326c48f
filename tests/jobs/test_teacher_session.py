"""A job's teacher is the configured one, or an offline one that ends with the job."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from jobs import teacher_session
from jobs.teacher_session import BASE_URL_ENV, configured_base_url, teacher_endpoint
from moss.config.teacher import TeacherConfig
from moss.errors import TeacherAuthError, TeacherUnavailableError
from tests.small_servers import serve_gets

ROOT = Path(__file__).resolve().parents[2]
QUICK = TeacherConfig(backoff_s=0.0, timeout_s=2.0)

STAND_IN = """
import argparse, http.server, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": "gpt-4", "owned_by": "moss-offline-teacher"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
pathlib.Path("pid").write_text(str(os.getpid()))
server = http.server.ThreadingHTTPServer(("127.0.0.1", parser.parse_args().port), Handler)
server.serve_forever()
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose `serve.teacher_app` is the few lines above."""
    monkeypatch.delenv(BASE_URL_ENV, raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "serve").mkdir()
    (tmp_path / "serve" / "__init__.py").touch()
    (tmp_path / "serve" / "teacher_app.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setattr(teacher_session, "_ROOT", tmp_path)
    return tmp_path


def ends_soon(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not psutil.pid_exists(pid)


def test_the_config_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE_URL_ENV, "http://environment/v1")
    assert configured_base_url(TeacherConfig()) == "http://environment/v1"
    assert configured_base_url(TeacherConfig(base_url="http://config/v1")) == "http://config/v1"


def test_an_offline_teacher_lives_as_long_as_the_block(root: Path) -> None:
    with teacher_endpoint(QUICK) as config:
        assert config.base_url is not None
        assert config.base_url.startswith("http://127.0.0.1:")
        pid = int((root / "pid").read_text())
        assert psutil.pid_exists(pid)
    assert ends_soon(pid)


def test_the_offline_teacher_ends_when_the_block_fails(root: Path) -> None:
    with pytest.raises(ZeroDivisionError), teacher_endpoint(QUICK):
        raise ZeroDivisionError
    assert ends_soon(int((root / "pid").read_text()))


def test_the_offline_teacher_ends_when_the_job_is_killed(root: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from jobs import teacher_session\n"
        "from moss.config.teacher import TeacherConfig\n"
        f"teacher_session._ROOT = pathlib.Path({str(root)!r})\n"
        "with teacher_session.teacher_endpoint(TeacherConfig()):\n"
        "    print('up', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == b"up\n"
    job.send_signal(signal.SIGKILL)
    job.wait(10)
    assert ends_soon(int((root / "pid").read_text()))


def test_a_teacher_that_does_not_start_shows_its_last_words(root: Path) -> None:
    (root / "serve" / "teacher_app.py").write_text("raise SystemExit('no such port')")
    with pytest.raises(TeacherUnavailableError, match="no such port"), teacher_endpoint(QUICK):
        pass


def test_an_endpoint_that_does_not_answer_is_refused_before_any_work() -> None:
    config = QUICK.with_base_url("http://127.0.0.1:1/v1")
    with pytest.raises(TeacherUnavailableError, match=r"127\.0\.0\.1:1"), teacher_endpoint(config):
        pytest.fail("the block must not run")


def test_a_wrong_key_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "wrong")

    def answer(path: str, headers: Mapping[str, str]) -> tuple[int, str]:
        return 401, '{"error": {"message": "Incorrect API key provided"}}'

    with (
        serve_gets(answer) as address,
        pytest.raises(TeacherAuthError),
        teacher_endpoint(QUICK.with_base_url(f"{address}/v1")),
    ):
        pytest.fail("the block must not run")
