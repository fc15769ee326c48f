import asyncio
import socket
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web

from moss.config.synthesis import SynthesizeConversationsConfig
from moss.config.teacher import TeacherConfig
from moss.endpoint import OFFLINE_TEACHER_OWNER, check_endpoint
from moss.endpoint_limits import RunLimits
from moss.errors import (
    BudgetError,
    ConfigError,
    TeacherAuthError,
    TeacherError,
    TeacherQuotaError,
    TeacherResponseError,
    TeacherUnavailableError,
)
from moss.ledger import Ledger
from moss.limits import Budget
from moss.local_limits import LocalLimits
from moss.teacher import Endpoint, Message, Teacher, TeacherAnswer, TeacherRequest
from tests.small_servers import serve_gets
from tests.stub_endpoint import Answer, StubEndpoint, error, running


def quick(stub: StubEndpoint, **changes: object) -> TeacherConfig:
    values = {"base_url": stub.base_url, "backoff_s": 0.01, "max_attempts": 3, "timeout_s": 5}
    return TeacherConfig.model_validate({**values, **changes})


def request(text: str, **changes: object) -> TeacherRequest:
    return TeacherRequest(model="m", messages=(Message("user", text),), max_tokens=8, **changes)  # type: ignore[arg-type]


async def ask_all(
    config: TeacherConfig, folder: Path | str, requests: list[TeacherRequest]
) -> list[TeacherAnswer | BaseException]:
    budget = Budget(tokens=config.budget_tokens, usd=config.budget_usd)
    with Ledger(str(folder)) as ledger:
        async with Teacher(
            config,
            Endpoint("stub"),
            ledger=ledger,
            limits=LocalLimits(RunLimits.of(config), budget),
        ) as teacher:
            return await asyncio.gather(
                *(teacher.complete(item) for item in requests), return_exceptions=True
            )


def ask(
    config: TeacherConfig, folder: Path | str, *requests: TeacherRequest
) -> list[TeacherAnswer]:
    answers = asyncio.run(ask_all(config, folder, list(requests)))
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if isinstance(answer, TeacherAnswer)]


def scripted(*answers: Answer | Callable[[], Answer]) -> Callable[[dict[str, object]], Answer]:
    remaining = list(answers)

    def respond(_: dict[str, object]) -> Answer:
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return answer() if callable(answer) else answer

    return respond


def test_refusals_that_name_no_wait_are_met_with_growing_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(_: Teacher, wait_s: float) -> None:
        waits.append(wait_s)

    monkeypatch.setattr(Teacher, "_wait", note)
    busy = [lambda: error(503, "busy")] * 700
    with running(StubEndpoint(scripted(*busy, "yes"))) as stub:
        config = quick(stub, backoff_s=0.01, max_backoff_s=0.2, max_refusals=701)
        assert ask(config, tmp_path, request("a"))[0].text == "yes"
    least = [0.01, 0.03, 0.09, *[0.2] * 697]
    assert all(low <= wait <= 1.25 * low for low, wait in zip(least, waits, strict=True))


@pytest.mark.parametrize("others", [0, 1])
def test_the_first_retry_waits_only_where_nobody_else_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    waits: list[float] = []

    async def note(_: Teacher, wait_s: float) -> None:
        waits.append(wait_s)

    def respond(body: dict[str, object]) -> Answer:
        if "bad" not in str(body):
            return "fine"
        time.sleep(0.05)  # the other one's answer is there first
        return error(500, "crash")

    monkeypatch.setattr(Teacher, "_wait", note)
    with running(StubEndpoint(respond)) as stub:
        requests = [*[request("ok")] * others, request("bad")]
        asyncio.run(ask_all(quick(stub), tmp_path, requests))
    first, second = waits
    assert first == 0.0 if others else 0.01 <= first <= 0.0125
    assert 0.03 <= second <= 0.0375


def test_chat_and_completion_take_their_own_routes_and_parameters(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "P" if "prompt" in body else "C")) as stub:
        completion = TeacherRequest(model="m", prompt="once", stop=("x",), seed=3)
        answers = ask(quick(stub), tmp_path, request("hi"), completion)
    assert [answer.text for answer in answers] == ["C", "P"]
    assert answers[0].prompt_tokens == 7
    (sent,) = [body for body in stub.bodies if "prompt" in body]
    assert (sent["prompt"], sent["stop"], sent["seed"]) == ("once", ["x"], 3)


def test_nothing_is_paid_twice_after_a_restart(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "yes")) as stub:
        asked = [request(str(number)) for number in range(20)]
        ask(quick(stub), tmp_path, *asked[:10])
        answers = ask(quick(stub), tmp_path, *asked)
        again = ask(quick(stub), tmp_path, *asked)
    assert max(stub.sold.values()) == 1
    assert len(stub.sold) == 20
    assert [answer.from_ledger for answer in answers] == [True] * 10 + [False] * 10
    assert all(answer.from_ledger for answer in again)


def test_the_same_request_at_the_same_time_is_bought_once(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "yes", delay_s=0.05)) as stub:
        answers = ask(quick(stub), tmp_path, *[request("same")] * 8)
    assert sum(stub.sold.values()) == 1
    assert {answer.text for answer in answers} == {"yes"}


def test_another_sample_number_is_another_purchase(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "yes")) as stub:
        ask(quick(stub), tmp_path, request("a", sample=0), request("a", sample=1))
    assert sum(stub.sold.values()) == 2


@pytest.mark.parametrize(
    "failure",
    [
        lambda: error(429, "slow down", code="rate_limit_exceeded", retry_after="0.01"),
        lambda: error(500, "oops"),
        lambda: error(503, "busy"),
    ],
)
def test_passing_failures_are_tried_again(tmp_path: Path, failure: Callable[[], Answer]) -> None:
    with running(StubEndpoint(scripted(failure, failure, "fine"))) as stub:
        (answer,) = ask(quick(stub), tmp_path, request("a"))
    assert (answer.text, answer.attempts) == ("fine", 3)


def test_retry_after_is_obeyed(tmp_path: Path) -> None:
    loop_times: list[float] = []

    def respond(body: dict[str, object]) -> Answer:
        loop_times.append(asyncio.get_running_loop().time())
        return error(429, "wait", retry_after="0.4") if len(loop_times) == 1 else "fine"

    with running(StubEndpoint(respond)) as stub:
        ask(quick(stub), tmp_path, request("a"))
    assert loop_times[1] - loop_times[0] >= 0.4


def test_a_waiting_request_gives_its_slot_back(tmp_path: Path) -> None:
    def respond(body: dict[str, object]) -> Answer:
        waits = "slow" in str(body) and len(stub.bodies) == 1
        return error(429, "wait", retry_after="0.5") if waits else "fine"

    with running(StubEndpoint(respond)) as stub:
        config = quick(stub, concurrency=1)
        ask(config, tmp_path, request("slow"), request("quick"))
    assert "quick" in str(stub.bodies[1])


def test_a_wrong_key_ends_at_once_and_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "wrong-secret")
    with running(StubEndpoint(lambda body: "yes", key="right")) as stub:
        config = quick(stub, api_key_env="SOME_KEY")
        with pytest.raises(TeacherAuthError, match="SOME_KEY holds a key it refuses") as caught:
            ask(config, tmp_path, request("a"))
        with pytest.raises(TeacherAuthError):
            check_endpoint(config)
    assert "wrong-secret" not in str(caught.value)
    assert not stub.bodies


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("place", ["code", "type"])
def test_an_exhausted_quota_is_not_tried_again(tmp_path: Path, status: int, place: str) -> None:
    body = {"error": {"message": "no money", "code": None, place: "insufficient_quota"}}
    refusal = scripted(lambda: web.json_response(body, status=status))
    with running(StubEndpoint(refusal)) as stub, pytest.raises(TeacherQuotaError, match="top it"):
        ask(quick(stub), tmp_path, request("a"))
    assert len(stub.bodies) == 1


def test_a_refused_request_fails_alone(tmp_path: Path) -> None:
    def respond(body: dict[str, object]) -> Answer:
        return error(400, "too long") if "bad" in str(body) else "fine"

    with running(StubEndpoint(respond)) as stub:
        answers = asyncio.run(ask_all(quick(stub), tmp_path, [request("bad"), request("good")]))
    assert isinstance(answers[0], TeacherResponseError)
    assert isinstance(answers[1], TeacherAnswer)


def test_an_unreachable_endpoint_says_what_to_check(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    config = TeacherConfig(base_url=url, backoff_s=0.01, max_attempts=2)
    with pytest.raises(TeacherUnavailableError, match=r"cannot reach .*teacher\.base_url"):
        ask(config, tmp_path, request("a"))
    with pytest.raises(TeacherUnavailableError, match="cannot reach"):
        check_endpoint(config)


def test_a_silent_endpoint_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "late", delay_s=3.0)) as stub:
        config = quick(stub, timeout_s=0.2, max_attempts=2)
        with pytest.raises(TeacherUnavailableError, match=r"within 0\.2 s"):
            ask(config, tmp_path, request("a"))


def test_a_request_that_alone_keeps_failing_does_not_end_the_run(tmp_path: Path) -> None:
    def respond(body: dict[str, object]) -> Answer:
        return error(500, "crash") if "bad" in str(body) else "fine"

    with running(StubEndpoint(respond)) as stub:
        config = quick(stub, backoff_s=0.1)
        answers = asyncio.run(ask_all(config, tmp_path, [request("bad"), request("ok")]))
    assert isinstance(answers[0], TeacherResponseError)


@pytest.mark.parametrize(
    "body", ["{", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}']
)
def test_a_malformed_answer_is_tried_again_then_fails_the_row(tmp_path: Path, body: str) -> None:
    def respond(_: dict[str, object]) -> Answer:
        return web.Response(text=body, content_type="application/json")

    with running(StubEndpoint(respond)) as stub, pytest.raises(TeacherError, match="3 attempts"):
        ask(quick(stub), tmp_path, request("a"))
    assert len(stub.bodies) == 3


def test_a_budget_is_never_exceeded_whatever_the_concurrency(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "yes", delay_s=0.01)) as stub:
        config = quick(stub, budget_tokens=200, concurrency=32)
        requests = [request(str(number)) for number in range(64)]
        answers = asyncio.run(ask_all(config, tmp_path, requests))
        refused = [answer for answer in answers if isinstance(answer, TeacherQuotaError)]
        assert refused
        assert "teacher.budget_tokens" in str(refused[0])
        assert sum(stub.sold.values()) * 12 <= 200
        raised = quick(stub, budget_tokens=1_000_000)
        assert len(ask(raised, tmp_path, *requests)) == 64
    assert max(stub.sold.values()) == 1


def test_a_money_budget_needs_a_price_for_every_model_that_the_stage_asks() -> None:
    def converse(**values: object) -> SynthesizeConversationsConfig:
        price = {"prompt": "0.5", "completion": 1.5}
        teacher = {"budget_usd": 1, "prices": {"gpt-3.5-turbo": price}}
        data = {"run_id": "c", "prompts": "p", "teacher": teacher, **values}
        return SynthesizeConversationsConfig.model_validate(data)

    assert converse().teacher.budget_usd == 1  # judge and classifier are not asked
    with pytest.raises(ValueError, match=r"no price for text-davinci-003, which this stage asks"):
        converse(recipe="one_instruction")
    with pytest.raises(ValueError, match=r"no price for mine, .* 'teacher\.prices\.\"mine\"={"):
        converse(models={"mine": 1.0})


def test_roles_left_out_keep_the_papers_models() -> None:
    config = TeacherConfig(models={"judge": "my-judge"})
    assert config.model("judge") == "my-judge"
    assert config.model("prompts") == "text-davinci-003"


def test_an_unknown_model_is_named_with_the_nearest_one() -> None:
    expected = r"no model 'gpt4'.*did you mean 'gpt-4'"
    with running(StubEndpoint(lambda body: "")) as stub, pytest.raises(ConfigError, match=expected):
        check_endpoint(quick(stub), ["gpt4"])


def test_a_page_where_an_api_should_be_is_refused_at_once() -> None:
    with serve_gets(lambda path, headers: (200, "<html>Welcome</html>")) as address:
        config = TeacherConfig(base_url=address)
        with pytest.raises(ConfigError, match=r"'<html>Welcome</html>'.* no JSON.* ends in /v1"):
            check_endpoint(config)


def test_the_stand_in_is_recognized_and_keeps_its_identity_over_ports() -> None:
    identities = set()
    for _ in range(2):
        with running(StubEndpoint(lambda body: "", models={"m": OFFLINE_TEACHER_OWNER})) as stub:
            endpoint = check_endpoint(quick(stub), ["m"])
            assert endpoint.stand_in
            identities.add(endpoint.identity)
    assert len(identities) == 1


def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "yes", delay_s=0.02)) as stub:
        requests = [request(str(number)) for number in range(20)]
        ask(quick(stub, concurrency=3), tmp_path, *requests)
    assert stub.max_in_flight == 3


def test_a_retry_after_date_is_obeyed(tmp_path: Path) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with running(StubEndpoint(scripted(lambda: error(429, "wait", retry_after=when)))) as stub:
        config = quick(stub, max_retry_after_s=10)
        with pytest.raises(
            TeacherUnavailableError, match=r"asks to wait (2\d|30)\b.* run again later"
        ):
            ask(config, tmp_path, request("a"))
    assert len(stub.bodies) == 1


def test_refusals_for_lack_of_capacity_do_not_use_up_the_attempts(tmp_path: Path) -> None:
    refusals = [lambda: error(429, "busy", retry_after="0")] * 6
    with running(StubEndpoint(scripted(*refusals, "fine"))) as stub:
        (answer,) = ask(quick(stub, max_attempts=2), tmp_path, request("a"))
    assert answer.attempts == 7


def test_a_request_that_is_refused_for_ever_is_given_up(tmp_path: Path) -> None:
    with running(StubEndpoint(scripted(lambda: error(429, "busy", retry_after="0")))) as stub:
        config = quick(stub, max_refusals=5)
        with pytest.raises(TeacherUnavailableError, match="gave up after 5 attempts"):
            ask(config, tmp_path, request("a"))


def test_an_exhausted_quota_ends_those_that_wait_too(tmp_path: Path) -> None:
    def respond(body: dict[str, object]) -> Answer:
        if "broke" in str(body):
            return error(429, "no money", code="insufficient_quota")
        return error(429, "later", retry_after="200")

    with running(StubEndpoint(respond)) as stub:
        config = quick(stub, concurrency=4)
        requests = [*(request(f"waits {n}") for n in range(3)), request("broke")]
        started = time.monotonic()
        outcomes = asyncio.run(ask_all(config, tmp_path, requests))
        elapsed_s = time.monotonic() - started
    assert all(isinstance(outcome, TeacherQuotaError) for outcome in outcomes)
    assert elapsed_s < 30  # they were asked to wait 200 s


def test_answers_in_flight_when_the_run_ends_still_reach_the_ledger(tmp_path: Path) -> None:
    def respond(body: dict[str, object]) -> Answer:
        return error(401, "bad key") if "bad" in str(body) else "paid"

    with running(StubEndpoint(respond)) as stub:
        outcomes = asyncio.run(ask_all(quick(stub), tmp_path, [request("bad"), request("good")]))
    assert isinstance(outcomes[0], TeacherAuthError)
    with Ledger(str(tmp_path)) as ledger:
        assert [record.text for record in ledger.records()] == ["paid"] * sum(stub.sold.values())


def test_an_endpoint_that_fails_for_too_long_stops_the_run(tmp_path: Path) -> None:
    with running(StubEndpoint(scripted(lambda: error(429, "busy", retry_after="0.05")))) as stub:
        config = quick(stub, breaker_s=0.6, max_refusals=1000)
        expected = r"nothing but failures .*429 \(busy\).*run again"
        with pytest.raises(TeacherUnavailableError, match=expected):
            ask(config, tmp_path, request("a"))


def malformed_with_usage(_: dict[str, object]) -> Answer:
    body = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
    return web.json_response(body)


def malformed_without_usage(_: dict[str, object]) -> Answer:
    return web.Response(text="{", content_type="application/json")


@pytest.mark.parametrize(
    ("respond", "cost"),
    [(malformed_with_usage, 12), (malformed_without_usage, 1 + 16 + 8)],
)
def test_billed_answers_that_are_no_use_are_charged(
    tmp_path: Path, respond: Callable[[dict[str, object]], Answer], cost: int
) -> None:
    """Without a `usage` the worst case counts: one byte, overhead of a message, max_tokens."""
    with running(StubEndpoint(respond)) as stub:
        config = quick(stub, budget_tokens=100, max_attempts=50)
        with pytest.raises(BudgetError, match=r"raise\s+teacher\.budget_tokens"):
            ask(config, tmp_path, request("a"))
        assert len(stub.bodies) * cost <= 100
        assert (len(stub.bodies) + 1) * cost + 25 > 100
    with Ledger(str(tmp_path)) as ledger:
        assert sum(ledger.totals()["m"][1:]) == len(stub.bodies) * cost


def test_a_timeout_may_have_been_billed_and_is_charged(tmp_path: Path) -> None:
    with running(StubEndpoint(lambda body: "late", delay_s=1.0)) as stub:
        config = quick(stub, timeout_s=0.1, budget_tokens=60, max_attempts=50)
        with pytest.raises(BudgetError):
            ask(config, tmp_path, request("a"))
    assert len(stub.bodies) == 2  # 25 tokens each at worst, and a third would pass 60


def test_a_request_that_never_left_costs_nothing(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    config = TeacherConfig(base_url=url, backoff_s=0.01, max_attempts=6, budget_tokens=60)
    with pytest.raises(TeacherUnavailableError, match="cannot reach"):
        ask(config, tmp_path, request("a"))
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.totals() == {}


def test_headers_slow_a_caller_down_to_the_endpoints_rate(tmp_path: Path) -> None:
    limits = {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1s",
    }

    def respond(_: dict[str, object]) -> Answer:
        message = {"role": "assistant", "content": "yes"}
        body = {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
        return web.json_response(body, headers=limits)

    times: list[float] = []

    def timed(body: dict[str, object]) -> Answer:
        times.append(time.monotonic())
        return respond(body)

    with running(StubEndpoint(timed, delay_s=0.05)) as stub:
        ask(quick(stub, concurrency=2), tmp_path, *[request(str(n)) for n in range(20)])
    # Ten a second once the first answers have told; without the headers half a second for all.
    assert times[-1] - times[0] >= 0.9


def test_a_teacher_works_with_a_ledger_on_object_storage() -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    with running(StubEndpoint(lambda body: "yes")) as stub:
        asked = [request(str(number)) for number in range(20)]
        ask(quick(stub), folder, *asked)
        again = ask(quick(stub), folder, *asked)
    assert all(answer.from_ledger for answer in again)
    assert max(stub.sold.values()) == 1


def test_after_the_end_what_is_in_flight_can_be_waited_for(tmp_path: Path) -> None:
    async def respond_slowly_to_one(stub: StubEndpoint) -> int:
        config = quick(stub)
        limits = LocalLimits(RunLimits.of(config), Budget(tokens=None, usd=None))
        with Ledger(str(tmp_path)) as ledger:
            async with Teacher(config, Endpoint("s"), ledger=ledger, limits=limits) as teacher:
                asking = asyncio.create_task(teacher.complete(request("in flight")))
                while not stub.in_flight:
                    await asyncio.sleep(0.01)
                teacher.halt(TeacherQuotaError("no quota"))
                await teacher.drain()
                assert asking.done() or ledger.get((await asking).key)
                return len(ledger)

    with running(StubEndpoint(lambda body: "paid", delay_s=0.3)) as stub:
        assert asyncio.run(respond_slowly_to_one(stub)) == 1
