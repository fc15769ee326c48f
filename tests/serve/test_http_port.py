"""A port that is taken is refused before anything starts, with what to do about it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import serve_chat
from jobs.entry import EXIT_CONFIG
from moss.config.base import StageConfig
from moss.config.serve import HttpConfig, ServeChatConfig
from moss.errors import ConfigError
from moss.lineage import Run
from serve.http_port import free_port, free_port_of_head


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """Somebody who listens on a port, as Ray's proxies do: ready to share it."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, reuse_port=True) as taken:
        yield request.param, taken.getsockname()[1]


def test_a_taken_port_is_refused_and_a_free_one_is_not(listener: tuple[str, int]) -> None:
    host, port = listener
    with pytest.raises(ConfigError, match=rf"http\.port={port} .* --set http\.port={port + 1}"):
        free_port(HttpConfig(host=host, port=port))
    found = free_port(HttpConfig(host=host, port=0))
    assert free_port(HttpConfig(host=host, port=found)) == found


def test_a_port_with_connections_that_have_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        served, _ = server.accept()
        served.close()  # this side closes first, so it is left waiting for stray packets
        assert client.recv(1) == b""
        client.close()
    assert free_port(HttpConfig(port=port)) == port


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"http\.host=192\.0\.2\.1"):
        free_port(HttpConfig(host="192.0.2.1", port=8000))


def test_serve_chat_leaves_with_the_code_of_a_wrong_config_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("actors.cluster._start_private", pytest.fail)
    workspace = str(tmp_path)
    with Run.open(StageConfig(workspace=workspace, run_id="MOSS-PAT"), "x", inputs={}) as run:
        run.finish(outputs=[], counts={})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = f"--config tiny --workspace {workspace} --set http.port={port}"
        assert serve_chat.main(flags.split()) == EXIT_CONFIG
    assert f"http.port={port} cannot be had" in capsys.readouterr().err
    assert not (tmp_path / "chat").exists()


@pytest.mark.parametrize("model", ["MOSS-X", "{0}/MOSS-X", "{0}/MOSS-X/checkpoint/"])
def test_a_model_is_a_run_its_path_or_its_checkpoint(model: str, tmp_path: Path) -> None:
    workspace = str(tmp_path)
    with Run.open(StageConfig(workspace=workspace, run_id="MOSS-X"), "x", inputs={}) as run:
        run.finish(outputs=[], counts={}, model_name="MOSS-Y")
    config = ServeChatConfig(workspace=workspace, model=model.format(workspace))
    (found,) = serve_chat.served_checkpoints(config)
    assert (found.folder, found.name) == (f"{workspace}/MOSS-X/checkpoint", "MOSS-Y")


@pytest.mark.ray
@pytest.mark.slow
def test_the_head_node_says_whether_its_port_is_free(
    ray_cluster: None, listener: tuple[str, int]
) -> None:
    host, port = listener
    with pytest.raises(ConfigError, match=rf"^http\.port={port} cannot be had"):
        free_port_of_head(HttpConfig(host=host, port=port))
    assert free_port_of_head(HttpConfig(host=host, port=0)) > 0
