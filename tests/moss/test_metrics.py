import pytest

from moss.errors import DataError
from moss.metrics import METRICS, UNITS, check_name, unit_of


def test_every_metric_is_named_stage_quantity_unit_once() -> None:
    assert len(METRICS) > 30
    assert len(set(METRICS)) == len(METRICS)
    for name in METRICS:
        assert unit_of(name) in UNITS


def test_every_unit_is_used_and_explained() -> None:
    assert {unit_of(name) for name in METRICS} == set(UNITS)
    assert all(UNITS.values())


def test_the_longest_unit_that_fits_is_meant() -> None:
    assert unit_of("train/tokens_per_s") == "tokens_per_s"
    assert unit_of("time/step_s") == "s"
    assert unit_of("rollout/score") == "score"


@pytest.mark.parametrize("name", ["loss", "Train/loss_nats", "train/", "train/a b", "/loss"])
def test_a_name_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="stage/quantity_unit"):
        check_name(name)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(DataError, match="no known unit"):
        unit_of("train/loss")
