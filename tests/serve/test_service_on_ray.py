"""The deployed service: Ray Serve, engine, tools, the official client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from moss.config.serve import ServeChatConfig
from moss.releases import Release, read_release, write_release
from tests.prometheus import samples

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

QUESTION = [{"role": "user", "content": "What is 12+7?"}]


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random policy with room for a turn."""
    from moss.config.model import ModelConfig
    from moss.models import build_policy_for
    from moss.tokenizer import add_controls, train_bpe

    folder = tmp_path_factory.mktemp("checkpoint")
    texts = ["What is 12+7? MOSS Thoughts on Search on Calculate on Solve on Text2Image on"] * 20
    tokenizer = add_controls(train_bpe(texts, vocab_size=290), style="special", row_multiple=64)
    tokenizer.save(folder)
    config = ModelConfig(
        hidden_size=64, num_layers=2, num_heads=2, intermediate_size=128, max_positions=512,
        initializer_std=0.3,
    )  # fmt: skip
    build_policy_for(tokenizer, config, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def release_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("release") / "release.json"
    write_release(path, Release(stable="MOSS-PAT"))
    return path


@pytest.fixture(scope="module")
def address(
    ray_cluster: None,
    checkpoint_folder: Path,
    release_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    from ray import serve as ray_serve

    from serve.deployment import deploy, undeploy
    from serve.edge_replica import Checkpoint

    config = ServeChatConfig.model_validate(
        {
            "workspace": str(tmp_path_factory.mktemp("workspace")),
            "meta_version": "tiny",
            "turn": {"temperature": 0, "max_reply_tokens": 48, "max_command_tokens": 16,
                     "max_thought_tokens": 16},
            "http": {"port": 0, "max_body_bytes": 4096},
            "tools": {"enabled": ["calculator", "web_search"]},
            "default_tools": ["calculator"],
            "engine": {"num_cpus": 0.2},
            "alias": "moss",
            "release_file": str(release_file),
            "tool_num_cpus": 0.05,
        }
    )  # fmt: skip
    checkpoints = [
        Checkpoint(str(checkpoint_folder), name, "v", "2024-01-01T00:00:00", "tiny", quality)
        for name, quality in (("MOSS-PAT", 100), ("MOSS-SFT", None))
    ]
    url = deploy(config, checkpoints)
    yield url
    undeploy(config.app_name)
    ray_serve.shutdown()


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_gets_the_same_reply_streaming_and_not(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="MOSS-PAT", messages=QUESTION)  # type: ignore[arg-type]
    assert whole.usage is not None
    assert whole.usage.completion_tokens > 0
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="MOSS-PAT", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    parts = list(stream)
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    assert [model.id for model in client.models.list()] == ["moss", "MOSS-PAT", "MOSS-SFT"]


def test_a_release_reaches_the_running_service_and_a_bad_one_does_not(
    client: openai.OpenAI, release_file: Path
) -> None:
    def answering(name: str) -> str:
        whole = client.chat.completions.create(  # type: ignore[call-overload]
            model=name, messages=QUESTION, max_tokens=4, tool_choice="none"
        )
        return str(whole.model)

    first = read_release(release_file)
    assert (answering("moss"), answering("MOSS-SFT")) == ("MOSS-PAT", "MOSS-SFT")
    write_release(release_file, first.promoted("MOSS-SFT"))
    assert (answering("moss"), answering("MOSS-PAT")) == ("MOSS-SFT", "MOSS-PAT")
    write_release(release_file, Release(stable="never served"))
    assert answering("moss") == "MOSS-SFT"
    write_release(release_file, first)
    assert answering("moss") == "MOSS-PAT"


def test_errors_reach_the_official_client_as_its_own_kinds(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=QUESTION)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="alternate"):
        client.chat.completions.create(
            model="MOSS-PAT", messages=[{"role": "assistant", "content": "x"}]
        )


def test_steering_headers_and_long_bodies_are_refused_through_the_proxy(address: str) -> None:
    def post(**options: object) -> httpx.Response:
        return httpx.post(f"{address}/v1/chat/completions", trust_env=False, timeout=30, **options)  # type: ignore[arg-type]

    steered = post(json={"messages": QUESTION}, headers={"x-request-disconnect-disabled": "?1"})
    assert steered.status_code == 400
    assert post(content=b"x" * 10_000).status_code == 413


def test_ids_of_another_form_and_the_proxys_own_list_do_not_pass(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as http:
        for sent in ("bad id <script>", "a" * 65):
            answer = http.get("/v1/models", headers={"x-request-id": sent})
            assert answer.is_success
            [given] = answer.headers.get_list("x-request-id")
            assert given != sent
        hidden = http.get("/-/routes")
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "not_found")
        assert len(hidden.headers.get_list("x-request-id")) == 1
        assert http.get("/-/healthz").is_success
        assert http.head("/").headers["content-type"].startswith("text/html")


def test_the_page_and_its_files_are_served(address: str) -> None:
    with httpx.Client(base_url=address, trust_env=False) as http:
        assert "<title>MOSS</title>" in http.get("/").text
        assert http.get("/static/app.js").is_success
        assert http.get("/app/settings").json()["model"] == "moss"


async def test_leaving_clients_free_the_engine_and_are_no_errors(address: str) -> None:
    asked: dict[str, dict[str, object]] = {
        "/v1/chat/completions": {"messages": QUESTION, "tool_choice": "none"},
        "/v1/completions": {"prompt": "What is", "max_tokens": 400},
    }
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as http:

        async def leave_early(path: str, number: int) -> None:
            body = asked[path] | {"stream": True}
            name = {"x-request-id": f"leaves.{number}"}
            async with http.stream("POST", path, json=body, headers=name) as answer:
                async for _ in answer.aiter_bytes():
                    return

        with contextlib.suppress(httpx.HTTPError):
            await asyncio.gather(*(leave_early(path, n) for path in asked for n in range(4)))
        started = time.monotonic()
        answer = await http.post("/v1/chat/completions", json={"messages": QUESTION})
        assert answer.is_success
        assert time.monotonic() - started < 30
    deadline = time.monotonic() + 20
    while not log_lines('"broken_by": "client_left"') and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    assert log_lines('"broken_by": "client_left"')
    noted = log_lines('"leaves.')
    assert len([line for line in noted if '"message": "request"' in line]) >= 4
    assert [line for line in noted if '"level": "info"' not in line or '"code"' in line] == []


def log_lines(part: str) -> list[str]:
    """Lines of any log of the cluster that hold `part`."""
    import ray

    assert ray._private.worker._global_node is not None
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    files = [file for file in folder.rglob("*") if file.is_file()]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    return [line for text in texts for line in text.splitlines() if part in line]


def test_a_text_is_continued_streaming_and_not(client: openai.OpenAI) -> None:
    asked = {"model": "MOSS-PAT", "prompt": ["What is", "12+7"], "max_tokens": 8}
    whole = client.completions.create(**asked)  # type: ignore[call-overload]
    parts = list(client.completions.create(**asked, stream=True))  # type: ignore[call-overload]
    for choice in whole.choices:
        pieces = [part.choices[0].text for part in parts if part.choices[0].index == choice.index]
        assert "".join(pieces) == choice.text
    assert whole.usage.completion_tokens > 0


def scraped(name: str, **labels: str) -> float:
    return sum(samples(name, **labels))


def test_prometheus_sees_requests_tokens_and_engines(client: openai.OpenAI) -> None:
    model = {"model": "MOSS-SFT"}  # no other test continues a text with it
    for _ in range(2):
        client.completions.create(prompt="What is", max_tokens=4, **model)  # type: ignore[call-overload]
    client.chat.completions.create(messages=QUESTION, **model)  # type: ignore[call-overload]
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="user-own", prompt="What is")

    def seen() -> dict[str, float]:
        texts = {"route": "/v1/completions", "status": "200"} | model
        return {
            "requests": scraped("ray_moss_service_requests_count_total", **texts),
            "not found": scraped("ray_moss_service_requests_count_total", status="404"),
            "first tokens": scraped("ray_moss_service_first_token_s_count", **model),
            "generated": scraped("ray_moss_service_generated_tokens_total", **model),
            "replies": scraped("ray_moss_service_part_s_bucket", part="reply", le="+Inf"),
            "engines": scraped("ray_moss_service_engine_starts_count_total", **model),
        }

    deadline = time.monotonic() + 60
    found = seen()
    while not (found["requests"] >= 2 and all(found.values())) and time.monotonic() < deadline:
        time.sleep(1)
        found = seen()
    assert all(found.values()), found
    assert (found["requests"], found["engines"]) == (2, 1)
    assert scraped("ray_moss_service_requests_count_total", model="user-own") == 0


def test_logs_of_all_replicas_have_the_requests_id_and_no_user_text(address: str) -> None:
    canary, name = "xylophone-4711", "from-the-client.1"
    asked = {"messages": [{"role": "user", "content": canary}]}
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        answer = http.post("/v1/chat/completions", json=asked, headers={"x-request-id": name})
        assert answer.is_success
        assert answer.headers.get_list("x-request-id") == [name]
        assert len(http.get("/health").headers.get_list("x-request-id")) == 1
        http.post("/v1/completions", json={"prompt": canary})
        http.post("/v1/chat/completions", json={"messages": [{"role": canary}]})
        http.get(f"/v1/models/{canary}")
        http.post("/v1/chat/completions", json=asked | {"model": canary})
    deadline = time.monotonic() + 20
    wanted = {'"message": "request"', '"message": "generation"'}
    while time.monotonic() < deadline:
        found = {part for part in wanted for line in log_lines(name) if part in line}
        if found == wanted:
            break
        time.sleep(0.5)
    assert found == wanted
    assert log_lines(canary) == []
