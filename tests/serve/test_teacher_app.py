from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60


@contextmanager
def teacher(*arguments: str, key: str | None = None) -> Iterator[str]:
    """A live service on loopback; yields its base URL."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    environment.pop("MOSS_TEACHER_KEY", None)
    if key is not None:
        environment["MOSS_TEACHER_KEY"] = key
    command = [sys.executable, "-m", "serve.teacher_app", "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["base_url"])
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def client_of(base_url: str, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with teacher() as url:
        yield url


@pytest.fixture(scope="module")
def client(base_url: str) -> openai.OpenAI:
    return client_of(base_url)


def test_chat_answers_with_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4", messages=[{"role": "user", "content": "What is 37*43+5?"}]
    )
    assert "1596" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 8
    assert answer.usage.total_tokens == 8 + answer.usage.completion_tokens


def test_a_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="gpt-3.5-turbo", messages=[{"role": "user", "content": "法国的首都是什么？"}]
    )
    stream = client.chat.completions.create(
        model="gpt-3.5-turbo",
        messages=[{"role": "user", "content": "法国的首都是什么？"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_completions_take_several_prompts_and_stream(client: openai.OpenAI) -> None:
    prompts = ["What is 12+7?", "What is 30*2?"]
    answer = client.completions.create(model="text-davinci-003", prompt=prompts, seed=4)
    assert "19" in answer.choices[0].text
    assert "60" in answer.choices[1].text
    stream = client.completions.create(
        model="text-davinci-003", prompt=prompts[0], seed=4, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_several_choices_are_indexed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="text-ada-001", n=3, messages=[{"role": "user", "content": "Who are you?"}]
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_models_are_owned_by_the_offline_teacher(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert {"text-ada-001", "gpt-4"} <= {model.id for model in models}
    assert {model.owned_by for model in models} == {"moss-offline-teacher"}
    assert client.models.retrieve("gpt-4").id == "gpt-4"


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist") as caught:
        client.completions.create(model="gpt-9", prompt="x")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"messages": []}',
        b'{"model": "gpt-4"}',
        b'{"model": "gpt-4", "messages": [{"role": "user"}]}',
        b'{"model": "gpt-4", "messages": [{"role": "x", "content": "y"}]}',
        b'{"model": "gpt-4", "n": 0, "messages": [{"role": "user", "content": "y"}]}',
        b'{"model": "gpt-4", "stop": 5, "messages": [{"role": "user", "content": "y"}]}',
    ],
)
def test_malformed_requests_are_400_with_an_error_body(base_url: str, body: bytes) -> None:
    request = urllib.request.Request(f"{base_url}/chat/completions", data=body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400
    error = json.loads(caught.value.read())["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_unknown_routes_are_404_with_an_error_body(base_url: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{base_url}/embeddings", timeout=30)
    assert caught.value.code == 404
    assert "/v1/embeddings" in json.loads(caught.value.read())["error"]["message"]


def test_a_required_key_is_checked() -> None:
    with teacher(key="right") as url:
        assert client_of(url, "right").models.list().data
        with pytest.raises(openai.AuthenticationError):
            client_of(url, "wrong").models.list()


def test_the_service_ends_with_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    command = [sys.executable, "-m", "serve.teacher_app", "--parent-pid", str(parent.pid)]
    service = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert service.stdout is not None
    service.stdout.readline()
    assert service.poll() is None
    parent.kill()
    parent.wait()
    assert service.wait(START_TIMEOUT_S) == 0
