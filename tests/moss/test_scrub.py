import pytest
from hypothesis import given
from hypothesis import strategies as st

from moss.scrub import scrub


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mail jane.doe+x@mail.example.org now", "Mail <email> now"),
        ("打13812345678找我", "打<phone>找我"),
        ("打+86 138-1234-5678找我", "打<phone>找我"),
        ("call +44 20 7946 0958", "call <phone>"),
        ("call (555) 123-4567 today", "call <phone> today"),
        ("身份证11010519491231002X。", "身份证<id>。"),
    ],
)
def test_personal_data_is_replaced(text: str, clean: str) -> None:
    assert scrub(text) == (clean, 1)


@pytest.mark.parametrize(
    "text",
    [
        "What is 37*43+5?",
        "Solve 3x+4=19.",
        "2024-05-01 was a holiday",
        "Version 1.10.3 of the tool",
        "987654321+123456789等于多少?",
        "x^2-5x+6=0",
    ],
)
def test_numbers_that_are_no_personal_data_stay(text: str) -> None:
    assert scrub(text) == (text, 0)


@given(st.text())
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    clean, _ = scrub(text)
    assert scrub(clean) == (clean, 0)
