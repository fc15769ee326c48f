"""Fixtures that many tests share: one Ray cluster and one tiny checkpoint for the whole session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.postgres import Server

# Tests share a small machine with the actors they start; OpenMP reads this once, at torch's import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "Calculate 12+7. 12+7 = 19. Hope this helps!",
    "法国的首都是巴黎。请计算12加7等于多少?",
] * 10


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite-golden` writes the golden files of rendered prompts anew."""
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files anew")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random policy (2 layers, hidden 64, head 32) with a small tokenizer."""
    from moss.config.model import ModelConfig
    from moss.models import build_policy_for
    from moss.tokenizer import add_controls, train_bpe

    folder = tmp_path_factory.mktemp("tiny-checkpoint")
    tokenizer = add_controls(train_bpe(_TEXTS, vocab_size=320), style="special", row_multiple=64)
    tokenizer.save(folder)
    config = ModelConfig(
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        intermediate_size=128,
        max_positions=128,
        # Wide logits: no near ties between the likeliest tokens of a random model.
        initializer_std=0.3,
    )
    build_policy_for(tokenizer, config, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private local Ray cluster with 2 CPUs, started on first use, shut down at the end."""
    import ray

    root = Path(__file__).resolve().parents[1]
    before = os.environ.get("PYTHONPATH")
    # Workers are new processes: they find the packages by this, not by pytest's settings.
    os.environ["PYTHONPATH"] = f"{root}{os.pathsep}{root / 'platform'}"
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A real Postgres server for the session, started on first use."""
    from tests.postgres import find_binaries, postgres_server

    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no Postgres (apt-get install postgresql)")
    with postgres_server(binaries) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own, of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/chat.sqlite"
        return
    server: Server = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    server.sql(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")
