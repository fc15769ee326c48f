"""The HTTP reward against real servers that fail in every way a server can."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import pytest

from moss.config.rewards import HttpReward
from moss.errors import ConfigError, RewardError
from moss.rewards.base import Outcome, RewardFailure
from moss.rewards.http import HttpScorer
from tests.moss.rewards.rows import row
from tests.small_servers import serve_posts

ROWS = [row(number) for number in range(5)]
Body = dict[str, object]
Reply = tuple[int, str, Mapping[str, str]]


def scorer(url: str, **changes: object) -> HttpScorer:
    quick = {"timeout_s": 0.3, "deadline_s": 5.0, "max_attempts": 3, "backoff_s": 0.01}
    data = {"kind": "http", "url": url, "rows_per_request": 2, **quick, **changes}
    return HttpScorer(HttpReward.model_validate(data))


def scores_of(body: Body) -> dict[str, object]:
    """Each row's own number as its score."""
    rows = body["rows"]
    assert isinstance(rows, list)
    return {item["id"]: float(item["id"].partition("/")[2]) for item in rows}


def as_answer(scores: Mapping[str, object]) -> Reply:
    items = [{"id": name, "score": score} for name, score in scores.items()]
    return 200, json.dumps({"scores": items}), {}


def serve(answer: Callable[[Body], Reply]) -> AbstractContextManager[str]:
    return serve_posts(lambda body, headers: answer(body))


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [o.reason for o in outcomes if isinstance(o, RewardFailure)]


def test_every_row_gets_its_own_score_in_whatever_order_they_come() -> None:
    bodies: list[Body] = []

    def answer(body: Body) -> Reply:
        bodies.append(body)
        return as_answer(dict(reversed(scores_of(body).items())))

    with serve(answer) as url:
        assert scorer(url).score_rows(ROWS) == [0.0, 1.0, 2.0, 3.0, 4.0]
        sizes = [len(body["rows"]) for body in bodies if isinstance(body["rows"], list)]
        assert sorted(sizes) == [1, 2, 2]
        scorer(url, send_token_ids=True).score_rows([row(3, columns={"answer": "19"})])
    assert bodies[-1]["rows"] == [
        {
            "id": "p3/3",
            "prompt": ROWS[0].prompt,
            "response": ROWS[0].response,
            "reply": ROWS[0].reply,
            "finished": True,
            "columns": {"answer": "19"},
            "prompt_ids": [5, 6],
            "response_ids": [7, 8],
        }
    ]


def test_a_passing_fault_is_tried_again() -> None:
    faults: list[Reply] = [(500, "down", {}), (200, "no json", {}), (200, '{"scores": [{}]}', {})]

    def answer(body: Body) -> Reply:
        return faults.pop() if faults else as_answer(scores_of(body))

    with serve(answer) as url:
        assert scorer(url, max_attempts=4, concurrency=1).score_rows(ROWS)[0] == 0.0
    assert faults == []


def test_an_endpoint_that_answers_500_fails_its_rows_after_bounded_tries() -> None:
    asked: list[Body] = []

    def answer(body: Body) -> Reply:
        asked.append(body)
        return 500, "broken", {}

    with serve(answer) as url:
        outcomes = scorer(url, rows_per_request=5).score_rows(ROWS)
    assert reasons(outcomes) == [f"{url}: answered 500 (broken) (3 tries)"] * 5
    assert len(asked) == 3


def test_an_endpoint_that_hangs_fails_its_rows_within_the_deadline() -> None:
    hanging = threading.Event()

    def answer(body: Body) -> Reply:
        hanging.wait(20)
        return 200, "{}", {}

    with serve(answer) as url:
        began = time.monotonic()
        tried = scorer(url, rows_per_request=5, max_attempts=2).score_rows(ROWS)
        assert reasons(tried) == [f"{url}: no answer within 0.3 s (2 tries)"] * 5
        cut = scorer(url, rows_per_request=5, max_attempts=50, deadline_s=0.7).score_rows(ROWS)
        hanging.set()
        assert time.monotonic() - began < 3.0
    assert all("given up after deadline_s=0.7" in reason for reason in reasons(cut))
    assert len(reasons(cut)) == 5


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (float("nan"), "gave nan"),
        (float("-inf"), "gave -inf"),
        ("1.5", "gave '1.5', expected a number"),
        (True, "gave True, expected a number"),
        (None, "gave None, expected a number"),
        (10**400, "gave inf"),
        (1e300, "gave 1e+300"),
    ],
)
def test_a_score_that_is_no_finite_number_fails_its_row_alone(score: object, said: str) -> None:
    with serve(lambda body: as_answer(scores_of(body) | {"p1/1": score})) as url:
        outcomes = scorer(url, rows_per_request=5).score_rows(ROWS)
    assert [outcomes[i] for i in (0, 2, 3, 4)] == [0.0, 2.0, 3.0, 4.0]
    (reason,) = reasons(outcomes)
    assert said in reason


def test_a_missing_score_and_a_stated_error_fail_their_rows_alone() -> None:
    def answer(body: Body) -> Reply:
        scores = scores_of(body)
        del scores["p0/0"], scores["p2/2"]
        items: list[dict[str, object]] = [{"id": k, "score": v} for k, v in scores.items()]
        return 200, json.dumps({"scores": [*items, {"id": "p2/2", "error": "too long"}]}), {}

    with serve(answer) as url:
        outcomes = scorer(url, rows_per_request=5).score_rows(ROWS)
    assert reasons(outcomes) == [
        "the reward endpoint gave no score for this row (4 of 5)",
        "the reward endpoint says: too long",
    ]


@pytest.mark.parametrize(
    "content",
    [
        '{"scores": [{"id": "p0/0", "score": 1}, {"id": "p9/9", "score": 1}]}',
        '{"scores": [{"id": "p0/0", "score": 1}, {"id": "p0/0", "score": 2}]}',
        '{"scores": [{"id": ["p0/0"], "score": 1}]}',
        '{"scores": {"p0/0": 1}}',
        "[1, 2]",
        "[" * 100_000,
        "",
    ],
)
def test_an_answer_of_another_form_or_for_other_rows_gives_no_score(content: str) -> None:
    with serve(lambda body: (200, content, {})) as url:
        outcomes = scorer(url, max_attempts=1).score_rows(ROWS[:2])
    assert len(reasons(outcomes)) == 2
    assert "malformed answer" in reasons(outcomes)[0]


def test_an_endless_answer_is_cut_off() -> None:
    with serve(lambda body: (200, " " * (9 << 20), {})) as url:
        outcomes = scorer(url, max_attempts=1, timeout_s=5.0).score_rows(ROWS[:1])
    assert "longer than" in reasons(outcomes)[0]


def test_retry_after_is_obeyed_and_one_beyond_patience_is_not_waited_for() -> None:
    times: list[float] = []

    def answer(body: Body) -> Reply:
        times.append(time.monotonic())
        if len(times) == 1:
            return 429, "slow down", {"Retry-After": "0.4"}
        return as_answer(scores_of(body))

    with serve(answer) as url:
        assert scorer(url).score_rows(ROWS[:1]) == [0.0]
    assert times[1] - times[0] >= 0.4
    with serve(lambda body: (503, "busy", {"Retry-After": "60"})) as url:
        began = time.monotonic()
        outcomes = scorer(url).score_rows(ROWS[:1])
        assert time.monotonic() - began < 2.0
    assert "asks to wait 60 s, more than max_retry_after_s=30" in reasons(outcomes)[0]


def test_a_request_that_is_refused_fails_its_rows_at_once() -> None:
    asked: list[Body] = []

    def answer(body: Body) -> Reply:
        asked.append(body)
        return (422, "row too long", {}) if "p0/0" in scores_of(body) else as_answer({"p2/2": 1})

    with serve(answer) as url:
        outcomes = scorer(url).score_rows([ROWS[0], ROWS[1], ROWS[2]])
    assert reasons(outcomes) == [f"{url}: answered 422 (row too long)"] * 2
    assert outcomes[2] == 1.0
    assert len(asked) == 2


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_a_wrong_address_or_key_ends_the_run_at_the_first_request(status: int) -> None:
    asked: list[Body] = []

    def answer(body: Body) -> Reply:
        asked.append(body)
        return status, "no", {"Location": "/elsewhere"}

    with serve(answer) as url, pytest.raises(RewardError, match=f"answered {status} .*api_key_env"):
        scorer(url, concurrency=1).score_rows(ROWS)
    assert len(asked) == 1


def test_nobody_listening_fails_the_rows_with_the_address() -> None:
    outcomes = scorer("http://127.0.0.1:9/score", max_attempts=2).score_rows(ROWS[:1])
    assert "http://127.0.0.1:9/score: ClientConnectorError" in reasons(outcomes)[0]


def test_the_key_is_sent_and_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "short-secret")
    seen: list[str | None] = []

    def answer(body: Body, headers: Mapping[str, str]) -> Reply:
        seen.append(headers.get("Authorization"))
        return 400, f"bad header {headers.get('Authorization')}", {}

    with serve_posts(answer) as url:
        outcomes = scorer(url, api_key_env="JUDGE_KEY").score_rows(ROWS[:1])
    assert seen == ["Bearer short-secret"]
    assert reasons(outcomes) == [f"{url}: answered 400 (bad header Bearer [redacted])"]
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match=r"JUDGE_KEY .* is not set"):
        scorer("http://127.0.0.1:9", api_key_env="JUDGE_KEY")
