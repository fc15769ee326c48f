"""MLflow and W&B: imported only when chosen; what they get is what the run logged.

The services themselves are tried where they are installed; they are no part of the test setup.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from moss.config.tracking import MLflowConfig, TrackingConfig, WandbConfig
from moss.errors import ConfigError
from moss.tracking import Tracker
from moss.tracking_services import start_services


def test_nothing_is_imported_that_was_not_chosen(tmp_path: Path) -> None:
    code = (
        "import sys; from moss.config.tracking import TrackingConfig; "
        "from moss.tracking_services import start_services; "
        f"assert start_services(TrackingConfig(), {str(tmp_path)!r}, run_id='r') == []; "
        "print(sorted({'mlflow', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "config", "package"),
    [
        ("mlflow", TrackingConfig(mlflow=MLflowConfig()), "mlflow-skinny"),
        ("wandb", TrackingConfig(wandb=WandbConfig()), "wandb"),
    ],
)
def test_a_missing_package_is_named_with_the_way_out(
    module: str,
    config: TrackingConfig,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if sys.modules.get(module) is None:
        monkeypatch.setitem(sys.modules, module, None)  # what an absent package looks like
    with pytest.raises(ConfigError, match=rf"pip install {package}`.*tracking\.{module}=null"):
        start_services(config, str(tmp_path), run_id="r")


def log_twice(config: TrackingConfig, folder: str) -> None:
    """A run that is killed after step 2 and resumed."""
    for steps in (range(1, 3), range(3, 5)):
        services = start_services(config, folder, run_id="MOSS-PPO")
        with Tracker(folder, tensorboard=False, services=services) as tracker:
            for step in steps:
                tracker.log(step, {"rollout/score": step / 2})
            tracker.log_text(steps[-1], "rollout/samples", "| a |")


def test_mlflow_has_one_run_with_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a store without a server keeps artifacts in `mlruns` there
    tracking = pytest.importorskip("mlflow.tracking")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    log_twice(TrackingConfig(mlflow=MLflowConfig(tracking_uri=uri)), str(tmp_path))
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("moss")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "MOSS-PPO"
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "rollout/score")
    assert [(point.step, point.value) for point in points] == [(s, s / 2) for s in range(1, 5)]


def test_wandb_offline_writes_below_the_run_and_asks_no_server(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    log_twice(TrackingConfig(wandb=WandbConfig(mode="offline")), str(tmp_path))
    written = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(written) == 2
    assert b"rollout/score" in b"".join(path.read_bytes() for path in written)
