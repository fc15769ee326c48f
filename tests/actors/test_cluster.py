"""A job that cannot get what it needs says so before any actor starts."""

import logging
import shutil
import socket
from pathlib import Path

import pytest

from actors import cluster
from actors.cluster import check_resources, connect, remove_folder, short_temp_dir
from moss.errors import ConfigError, ResourceError


@pytest.fixture
def not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, whatever cluster earlier tests left this one connected to."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)


@pytest.mark.usefixtures("not_connected")
def test_an_address_of_the_jobs_api_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cluster.ADDRESS_ENV, "http://127.0.0.1:8265")
    with (
        pytest.raises(ConfigError, match="ray job submit --address http://127"),
        connect(num_cpus_needed=1, what="test"),
    ):
        pass


@pytest.mark.usefixtures("not_connected")
def test_an_address_where_nothing_listens_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv(cluster.ADDRESS_ENV, f"127.0.0.1:{port}")
    with (
        pytest.raises(ResourceError, match=f"no Ray cluster answers at RAY_ADDRESS=.*{port}"),
        connect(num_cpus_needed=1, what="test"),
    ):
        pass


def test_a_long_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp/" + "x" * 60)
    folder = short_temp_dir()
    assert folder.startswith("/tmp/moss-")
    Path(folder).rmdir()


@pytest.mark.usefixtures("not_connected")
def test_a_folder_goes_though_a_process_that_ends_still_writes_into_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "moss-session"
    (folder / "logs").mkdir(parents=True)
    remove = shutil.rmtree
    left = ["gcs_server.out", "raylet.out"]

    def remove_while_written(path: str, *, ignore_errors: bool) -> None:
        remove(path, ignore_errors=ignore_errors)
        if left:  # what a process that has not ended yet writes between listing and removal
            folder.mkdir()
            (folder / left.pop()).touch()

    monkeypatch.setattr(shutil, "rmtree", remove_while_written)
    remove_folder(str(folder))
    assert not folder.exists()


def test_a_folder_goes_though_a_second_signal_cuts_the_shutdown_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray

    def interrupted() -> None:
        raise SystemExit(15)

    folder = tmp_path / "moss-session"
    folder.mkdir()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "short_temp_dir", lambda: str(folder))
    monkeypatch.setattr(cluster, "_start_private", lambda _: None)
    monkeypatch.setattr(cluster, "check_resources", lambda *_, **__: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", interrupted)
    with pytest.raises(SystemExit), connect(num_cpus_needed=1, what="a test"):
        pass
    assert not folder.exists()


def test_a_private_start_says_nothing_of_its_token_but_what_else_ray_warns_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private.authentication import authentication_token_setup as setup

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    def warn(**_: object) -> None:
        setup._warn_token_auth_enabled()
        setup._warn_token_auth_disabled()

    said: list[str] = []
    handler = Kept()
    setup.logger.addHandler(handler)
    monkeypatch.setattr("ray.init", warn)
    try:
        cluster._start_private("/tmp/none")
    finally:
        setup.logger.removeHandler(handler)
    assert [message.partition(".")[0] for message in said] == [
        "Token authentication is disabled for this Ray cluster"
    ]


@pytest.mark.ray
@pytest.mark.slow
def test_connect_keeps_a_connection_that_is_there(ray_cluster: None) -> None:
    import ray

    with connect(num_cpus_needed=2, what="test"):
        assert ray.is_initialized()
    assert ray.is_initialized()


@pytest.mark.ray
@pytest.mark.slow
def test_too_few_resources_name_what_is_needed_and_what_there_is(ray_cluster: None) -> None:
    with pytest.raises(ResourceError, match=r"train_ppo needs 4 CPU, the cluster has 2; 1 GPU"):
        check_resources({"CPU": 4, "GPU": 1}, what="train_ppo")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_may_grow_is_not_refused(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_autoscaling_limits", lambda: {"CPU": 64.0})
    check_resources({"CPU": 48}, what="pretrain")
    with pytest.raises(ResourceError, match="has 2 and may grow to 64"):
        check_resources({"CPU": 65}, what="pretrain")
