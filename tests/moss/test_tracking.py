import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from moss import storage
from moss.errors import DataError
from moss.metrics import TRAIN_LOSS
from moss.tracking import Tracker, read_metrics
from moss.tracking_services import guarded


def _log(place: str, steps: range, *, resume_step: int | None = None) -> None:
    with Tracker(place, resume_step=resume_step, tensorboard=False) as tracker:
        for step in steps:
            tracker.log(step, {TRAIN_LOSS: step / 2})


def test_logged_metrics_are_read_back(place: str) -> None:
    assert read_metrics(place) == []
    _log(place, range(120))
    assert read_metrics(place) == [(step, {TRAIN_LOSS: step / 2}) for step in range(120)]


def test_a_second_tracker_appends_and_a_resumed_one_drops_later_steps(place: str) -> None:
    _log(place, range(3))
    _log(place, range(3, 6))
    assert [step for step, _ in read_metrics(place)] == [0, 1, 2, 3, 4, 5]
    _log(place, range(3, 5), resume_step=2)
    assert [step for step, _ in read_metrics(place)] == [0, 1, 2, 3, 4]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    _log(str(tmp_path), range(2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "metr')
    _log(str(tmp_path), range(2, 3))
    assert [step for step, _ in read_metrics(str(tmp_path))] == [0, 1, 2]


def test_values_that_are_not_finite_stay_on_record_as_valid_json(place: str) -> None:
    with Tracker(place, tensorboard=False) as tracker:
        tracker.log(1, {"train/loss_nats": math.nan, "train/gradient_norm": math.inf})
    text = storage.read_text(storage.join(place, "metrics.jsonl"))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    [(step, metrics)] = read_metrics(place)
    assert step == 1
    assert math.isnan(metrics["train/loss_nats"])
    assert metrics["train/gradient_norm"] == math.inf


def test_a_name_of_another_form_is_refused(tmp_path: Path) -> None:
    with (
        Tracker(str(tmp_path), tensorboard=False) as tracker,
        pytest.raises(DataError, match="'loss' is not of the form"),
    ):
        tracker.log(1, {"loss": 1.0})


def test_lines_that_are_no_metrics_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("not json\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl holds a line that is not JSON"):
        read_metrics(str(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": "x"}\n')
    with pytest.raises(DataError, match="step='x', expected a number"):
        read_metrics(str(tmp_path))


def test_tensorboard_shows_the_same_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with Tracker(str(tmp_path)) as tracker:
        for step in range(3):
            tracker.log(step, {TRAIN_LOSS: step / 2})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(TRAIN_LOSS)]
    assert shown == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_tensorboard_shows_texts_as_its_text_plugin_reads_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    with Tracker(str(tmp_path)) as tracker:
        tracker.log_text(3, "rollout/samples", "| a |\n|---|\n| b |")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.PluginTagToContent("text").keys() == {"rollout/samples"}
    (event,) = events.Tensors("rollout/samples")
    assert (event.step, make_ndarray(event.tensor_proto)[0]) == (3, b"| a |\n|---|\n| b |")


class Recorder:
    """A service that remembers, or fails from a step on."""

    def __init__(self, fails_from: int = 10**6) -> None:
        self.seen: list[tuple[int, object]] = []
        self.closed = 0
        self._fails_from = fails_from

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._fails_from:
            raise ConnectionError("the server is gone")
        self.seen.append((step, dict(metrics)))

    def log_text(self, step: int, tag: str, markdown: str) -> None:
        self.seen.append((step, (tag, markdown)))

    def close(self) -> None:
        self.closed += 1


def test_a_service_gets_every_metric_and_text_and_is_closed_once(tmp_path: Path) -> None:
    service = Recorder()
    with Tracker(str(tmp_path), tensorboard=False, services=[service]) as tracker:
        tracker.log(1, {TRAIN_LOSS: 0.5})
        tracker.log_text(1, "rollout/samples", "text")
        tracker.close()
    assert service.seen == [(1, {TRAIN_LOSS: 0.5}), (1, ("rollout/samples", "text"))]
    assert service.closed == 1


def test_a_service_that_fails_is_warned_of_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Recorder(fails_from=2)
    with Tracker(str(tmp_path), tensorboard=False, services=[guarded("wandb", service)]) as tracker:
        for step in range(5):
            tracker.log(step, {TRAIN_LOSS: 1.0})
    assert [step for step, _ in service.seen] == [0, 1]
    assert service.closed == 0
    (warning,) = caplog.messages
    assert warning.startswith("wandb failed (ConnectionError: the server is gone)")
    assert [step for step, _ in read_metrics(str(tmp_path))] == [0, 1, 2, 3, 4]
