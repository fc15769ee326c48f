"""POST /v1/completions through the official client, against a scripted engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from moss.api_keys import key_digest
from moss.chat import END_MARKERS, HEADERS, escape, quality_tag, unescape
from moss.chat_rendering import ChatRenderer
from moss.config.api_keys import ApiKeyConfig
from moss.tokenizer import ControlStyle, MossTokenizer, add_controls, train_bpe
from moss.types import ToolName
from serve.app import build_app
from serve.auth import ApiKeys
from serve.chat_service import ChatService
from serve.completing import prepare_completion
from serve.completion_schemas import CompletionRequest
from serve.text_stream import TextStream
from tests.serve.serving import client_of, one_model, route, service_of

SONG = " the dish ran away with the spoon. 盘子跑了。"
CONTROLS = [*HEADERS.values(), *END_MARKERS.values(), quality_tag(100), "<|endoftext|>", "<pad>"]


@pytest.fixture
def engine(scripted: Callable[..., Any]) -> Any:
    made = scripted()
    made.script = dict.fromkeys(HEADERS, SONG)  # whatever the prompt looks like
    return made


@pytest_asyncio.fixture
async def client(service: ChatService) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_client(service) as made:
        yield made


def openai_client(service: ChatService, *, key: str = "none", keys: str = "") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://chat.test/v1",
        api_key=key,
        max_retries=0,
        http_client=cast(Any, client_of(service, keys=keys)),
    )


async def test_a_text_is_continued_and_counted(client: openai.AsyncOpenAI, engine: Any) -> None:
    answer = await client.completions.create(model="MOSS-PAT", prompt="And", max_tokens=200)
    assert answer.object == "text_completion"
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (SONG, "stop")
    tokenizer = engine.renderer.tokenizer
    assert engine.prompts == [tokenizer.encode("And")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(engine.prompts[0])
    assert answer.usage.completion_tokens == len(tokenizer.encode(SONG))


async def test_a_stream_says_the_same_as_the_whole(client: openai.AsyncOpenAI) -> None:
    whole = await client.completions.create(model="", prompt=["And", "Or"], max_tokens=200)
    stream = await client.completions.create(
        model="", prompt=["And", "Or"], max_tokens=200, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    parts = [part async for part in stream]
    assert len({(part.id, part.created, part.model, part.object) for part in parts}) == 1
    assert parts[-1].choices == []
    assert parts[-1].usage == whole.usage
    for choice in whole.choices:
        pieces = [part.choices[0] for part in parts[:-1] if part.choices[0].index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text == SONG
        assert [piece.finish_reason for piece in pieces if piece.finish_reason] == ["stop"]
    assert [choice.index for choice in whole.choices] == [0, 1]


async def test_max_tokens_cuts_and_sixteen_is_the_default(
    client: openai.AsyncOpenAI, engine: Any
) -> None:
    ids = engine.renderer.tokenizer.encode(SONG)
    for limit, expected in ((3, ids[:3]), (None, ids[:16])):
        given = openai.omit if limit is None else limit
        answer = await client.completions.create(model="", prompt="And", max_tokens=given)
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].text == engine.renderer.tokenizer.decode(expected).rstrip("�")
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(expected)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_text_ends_generation_and_is_not_part_of_it(
    client: openai.AsyncOpenAI, engine: Any, stream: bool
) -> None:
    engine.script = dict.fromkeys(HEADERS, SONG + " word" * 80)
    asked: dict[str, Any] = {
        "model": "", "prompt": "And", "max_tokens": 300, "stop": ["away with", "spoon"]
    }  # fmt: skip
    if stream:
        parts = [part async for part in await client.completions.create(**asked, stream=True)]
        text = "".join(part.choices[0].text for part in parts)
        reason = parts[-1].choices[0].finish_reason
    else:
        whole = await client.completions.create(**asked)
        text, reason = whole.choices[0].text, whole.choices[0].finish_reason
    assert (text, reason) == (" the dish ran ", "stop")
    assert engine.num_made < 40
    assert engine.closed == len(engine.prompts)


async def test_sampling_parameters_reach_the_engine_with_the_services_defaults(
    client: openai.AsyncOpenAI, engine: Any, service: ChatService
) -> None:
    await client.completions.create(model="", prompt="a", temperature=1.5, top_p=0.3, seed=7)
    await client.completions.create(model="", prompt="a")
    first, second = engine.asked
    assert (first.temperature, first.top_p, first.seed) == (1.5, 0.3, 7)
    turn = service.config.turn
    assert (second.temperature, second.top_p, second.seed) == (0, turn.top_p, turn.seed)


async def test_an_empty_prompt_begins_a_document(client: openai.AsyncOpenAI, engine: Any) -> None:
    await client.completions.create(model="", prompt="")
    assert engine.prompts == [[engine.renderer.tokenizer.eos_id]]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"echo": True}, "echo"),
        ({"n": 2}, "n"),
        ({"best_of": 3}, "best_of"),
        ({"logprobs": 0}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"extra_body": {"moss": {"tools": {"calculator": True}}}}, "moss"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": "word " * 900}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"prompt": "a\0b"}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
    ],
)
async def test_what_is_not_supported_is_refused_by_name(
    client: openai.AsyncOpenAI, engine: Any, change: dict[str, Any], param: str
) -> None:
    asked = {"model": "MOSS-PAT", "prompt": "And"} | change
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(**asked)
    assert caught.value.param is not None
    assert caught.value.param.split(".")[0] == param
    assert engine.prompts == []


async def test_harmless_values_of_unsupported_parameters_pass(client: openai.AsyncOpenAI) -> None:
    asked = {"echo": False, "n": 1, "best_of": 1, "suffix": ""}
    await client.completions.create(model="", prompt="And", **asked)  # type: ignore[call-overload]


async def test_keys_models_and_limits_hold_as_for_chat(
    engine: Any, renderer: ChatRenderer, spies: dict[ToolName, Any], tmp_path: Path
) -> None:
    models = one_model(engine, renderer)
    other = route("MOSS-SFT", engine, renderer)
    models._routes["MOSS-SFT"] = other
    service = service_of(models, spies, tmp_path, http={"max_ongoing": 1})
    key = ApiKeyConfig(
        sha256=key_digest("secret"), label="test", models=("MOSS-PAT",), tokens_per_minute=1,
    )  # fmt: skip
    transport = openai.AsyncOpenAI(
        base_url="http://chat.test/v1", api_key="secret", max_retries=0,
        http_client=_client(service, ApiKeys([key])),
    )  # fmt: skip
    asked = {"prompt": "And", "max_tokens": 5}
    with pytest.raises(openai.AuthenticationError):
        await transport.with_options(api_key="wrong").completions.create(model="", **asked)  # type: ignore[call-overload]
    with pytest.raises(openai.PermissionDeniedError):
        await transport.completions.create(model="MOSS-SFT", **asked)  # type: ignore[call-overload]
    with pytest.raises(openai.NotFoundError):
        await transport.completions.create(model="other", **asked)  # type: ignore[call-overload]
    with service.admitted(), pytest.raises(openai.RateLimitError) as busy:
        await transport.completions.create(model="", **asked)  # type: ignore[call-overload]
    assert busy.value.code == "too_many_requests"
    await transport.completions.create(model="", **asked)  # type: ignore[call-overload]
    with pytest.raises(openai.RateLimitError) as spent:
        await transport.completions.create(model="", **asked)  # type: ignore[call-overload]
    assert spent.value.code == "tokens_per_minute_reached"
    assert int(spent.value.response.headers["retry-after"]) >= 1
    await transport.close()
    service.store.close()


def _client(service: ChatService, keys: ApiKeys) -> Any:
    import httpx

    transport = httpx.ASGITransport(build_app(service, keys), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://chat.test")


async def test_no_tool_runs_whatever_the_model_writes(
    client: openai.AsyncOpenAI, engine: Any, spies: dict[ToolName, Any]
) -> None:
    engine.script = dict.fromkeys(HEADERS, ' Calculate("1+1")')
    prompt = "".join(HEADERS.values())
    await client.completions.create(model="", prompt=prompt, max_tokens=100)
    assert not any(spy.asked for spy in spies.values())
    assert len(engine.prompts) == 1


@pytest.mark.parametrize("style", ["special", "text"])
def test_no_prompt_forges_a_section(
    style: ControlStyle, engine: Any, spies: dict[ToolName, Any], tmp_path: Path
) -> None:
    tokenizer = add_controls(train_bpe(["<|MOSS|>: hello <eom>"] * 20, vocab_size=262), style=style)
    renderer = ChatRenderer(tokenizer)
    service = service_of(one_model(engine, renderer), spies, tmp_path)
    prompt = "\n".join([*CONTROLS, *(f"a{control}b" for control in CONTROLS)])
    request = CompletionRequest(prompt=prompt, max_tokens=1)
    key = ApiKeyConfig(sha256=key_digest(""), label="open")
    engine.max_positions = 4096
    prepared = prepare_completion(service, request, "owner", key, request_id="x")
    [ids] = prepared.prompts
    assert not set(ids) & set(tokenizer.controls.values())
    as_read = tokenizer.decode(ids)
    assert not any(header in as_read for header in HEADERS.values())
    assert unescape(as_read) == prompt
    service.store.close()


async def test_an_engine_that_fails_breaks_the_stream_detectably(
    client: openai.AsyncOpenAI, engine: Any, service: ChatService
) -> None:
    async def broken(*_: object) -> Any:
        raise RuntimeError("secret detail")
        yield

    engine.generate = broken
    with pytest.raises(openai.InternalServerError) as caught:
        await client.completions.create(model="", prompt="And")
    assert "secret" not in str(caught.value)
    stream = await client.completions.create(model="", prompt="And", stream=True)
    with pytest.raises(openai.APIError):
        _ = [part async for part in stream]
    assert service._num_ongoing == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_generation(
    service: ChatService, engine: Any, stream: bool
) -> None:
    engine.script = dict.fromkeys(HEADERS, SONG * 20)
    engine.delay_s = 0.01
    sent = json.dumps({"prompt": ["a", "b"], "max_tokens": 300, "stream": stream}).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
        "raw_path": b"/v1/completions", "client": ("127.0.0.1", 1), "scheme": "http",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "http_version": "1.1", "root_path": "",
    }  # fmt: skip
    messages = [{"type": "http.request", "body": sent}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        while engine.num_made < 5:
            await asyncio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    await build_app(service, ApiKeys())(scope, receive, send)
    await asyncio.sleep(0.05)
    assert 5 <= engine.num_made < 60
    assert (engine.closed, len(engine.prompts)) == (1, 1)
    assert service._num_ongoing == 0


_TOKENIZER = add_controls(train_bpe([SONG + "<|MOSS|>: <eom>"] * 20, vocab_size=300), style="text")


@given(
    text=st.lists(
        st.sampled_from(["a", "b", "<", "盘", "🥄", " ", "<|MOSS|>:", "<eom>", "\\"])
    ).map("".join),
    stops=st.lists(st.text(st.sampled_from("ab盘<"), min_size=1, max_size=3), max_size=2),
    cuts=st.lists(st.integers(0, 80)),
    extra=st.lists(st.sampled_from(sorted(_TOKENIZER.controls.values())), max_size=2),
)
def test_streamed_text_is_the_whole_text_up_to_the_first_stop(
    text: str, stops: list[str], cuts: list[int], extra: list[int]
) -> None:
    ids = [*extra, *_TOKENIZER.encode(escape(text))]
    ends = sorted({min(cut, len(ids)) for cut in cuts} | {len(ids)})
    stream = TextStream(_TOKENIZER, stops)
    pieces = [stream.push(ids[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
    shown = "".join([*pieces, stream.finish()])
    # A stop is met at its last character, so the one that ends first counts.
    ends_at = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    met = text[: ends_at[0]] if ends_at else text
    longest = max((len(stop) for stop in stops if met.endswith(stop)), default=0)
    assert shown == met[: len(met) - longest]
    assert stream.is_stopped == bool(ends_at)


def test_text_that_ends_within_a_character_is_shown_at_the_end() -> None:
    tokenizer: MossTokenizer = _TOKENIZER
    ids = tokenizer.encode("a🥄")[:-1]
    stream = TextStream(tokenizer)
    assert stream.push(ids) == "a"
    assert stream.finish() == "�"
