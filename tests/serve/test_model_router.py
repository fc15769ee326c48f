from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moss.api_keys import key_digest
from moss.chat_rendering import ChatRenderer
from moss.config.api_keys import ApiKeyConfig
from moss.releases import Release, read_release, write_release
from moss.watched_file import WatchedFile
from serve.auth import OPEN
from serve.errors import ApiError
from serve.model_router import ModelRouter
from tests.serve.serving import route

ONLY_SFT = ApiKeyConfig(sha256=key_digest("k"), label="sft", models=("MOSS-SFT",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "release.json"
    write_release(path, Release(stable="MOSS-SFT", canary="MOSS-PAT", canary_share=0.5))
    return path


@pytest.fixture
def router(renderer: ChatRenderer, file: Path) -> ModelRouter:
    engine: Any = object()
    routes = [
        route("MOSS-SFT", engine, renderer, quality=None),
        route("MOSS-PAT", engine, renderer),
    ]
    return ModelRouter(routes, alias="moss", release=WatchedFile(str(file), read_release))


def answering(router: ModelRouter, name: str, key: ApiKeyConfig = OPEN) -> set[str]:
    return {router.find(name, f"user-{n}", key).served.name for n in range(50)}


def test_a_named_model_answers_and_the_alias_follows_the_release(
    router: ModelRouter, file: Path
) -> None:
    assert answering(router, "MOSS-PAT") == {"MOSS-PAT"}
    for name in ("moss", ""):
        assert answering(router, name) == {"MOSS-SFT", "MOSS-PAT"}
    sides = [router.find("moss", "same user", OPEN).served.name for _ in range(10)]
    assert len(set(sides)) == 1
    write_release(file, read_release(file).promoted("MOSS-PAT"))
    assert answering(router, "moss") == {"MOSS-PAT"}
    assert router.offers_quality("moss")
    write_release(file, read_release(file).rolled_back())
    assert answering(router, "moss") == {"MOSS-SFT"}
    assert not router.offers_quality("moss")
    assert router.offers_quality("MOSS-PAT")
    write_release(file, read_release(file).promoted("MOSS-PAT").with_canary("MOSS-SFT", 0.1))
    router.find("moss", "someone", OPEN)
    assert not router.offers_quality("moss")  # some users would be refused


def test_a_key_without_the_canary_stays_with_the_stable_model(router: ModelRouter) -> None:
    assert answering(router, "moss", ONLY_SFT) == {"MOSS-SFT"}
    with pytest.raises(ApiError, match="not for the model MOSS-PAT"):
        router.find("MOSS-PAT", "x", ONLY_SFT)


def test_models_are_listed_by_what_a_key_may_use(router: ModelRouter) -> None:
    assert [model.name for model in router.listed(OPEN)] == ["moss", "MOSS-SFT", "MOSS-PAT"]
    assert [model.name for model in router.listed(ONLY_SFT)] == ["moss", "MOSS-SFT"]
    assert router.describe("moss", ONLY_SFT).name == "moss"
    for name, status in (("MOSS-PAT", 403), ("other", 404)):
        with pytest.raises(ApiError) as caught:
            router.describe(name, ONLY_SFT)
        assert caught.value.status == status


def test_a_model_that_is_not_served_is_refused_with_those_that_are(router: ModelRouter) -> None:
    with pytest.raises(ApiError, match="it has moss, MOSS-SFT, MOSS-PAT") as caught:
        router.find("gpt-4", "x", OPEN)
    assert caught.value.status == 404
