"""What the synthesis stages read before they start: seeds, red-team prompts, demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain

from moss import storage
from moss.categories import HONESTY
from moss.config.synthesis import CollectPromptsConfig, SynthesizePromptsConfig
from moss.recipes import Row, stable_unit
from moss.seeds import ToolDemonstration, load_demonstrations, load_red_team, load_seeds
from moss.selfinstruct import Example
from moss.served_prompts import is_database_url, read_served_prompts
from moss.synthesis_plan import group_seeds, quotas_of
from moss.synthesis_rows import ok_rows
from moss.types import LANGUAGES, Language


def load_prompt_seeds(config: SynthesizePromptsConfig) -> dict[str, list[Example]]:
    """Bucket -> seeds: the bundled ones, or those that `collect_prompts` selected.

    Raises:
        ConfigError: no bucket with a quota has a seed.
        ManifestError: the run of seeds is absent or altered.
    """
    bundled: list[Mapping[str, object]] = [asdict(seed) for seed in load_seeds()]
    if config.seeds is None:
        return group_seeds(bundled, quotas_of(config.quotas))
    collected = ok_rows(config.run_path(config.seeds), "collected")
    honesty = [seed for seed in bundled if seed["category"] == HONESTY]
    return group_seeds(chain(collected, honesty), quotas_of(config.quotas))


def load_red_team_rows() -> list[Row]:
    """The bundled red-team prompts as rows."""
    return [asdict(prompt) for prompt in load_red_team()]


def demonstrations_by_language() -> dict[Language, Sequence[ToolDemonstration]]:
    """The bundled tool demonstrations."""
    found = load_demonstrations()
    return {language: [d for d in found if d.language == language] for language in LANGUAGES}


def load_served_prompts(config: CollectPromptsConfig) -> list[Row] | None:
    """Served prompts, or None where the workspace has none yet.

    Raises:
        DataError: the source is not readable.
    """
    source = served_source(config)
    if source is None:
        return None
    rows = read_served_prompts(source)
    if config.max_prompts is not None and len(rows) > config.max_prompts:
        rows.sort(key=lambda row: stable_unit(config.seed, "served", row["id"]))
        rows = sorted(rows[: config.max_prompts], key=lambda row: str(row["id"]))
    return rows or None


def served_source(config: CollectPromptsConfig) -> str | None:
    """Where served prompts are, as an absolute path or a URL; None where there is nothing yet."""
    source = config.source
    if source is None or is_database_url(source):
        return source
    if not source.startswith("/") and "://" not in source:
        source = storage.join(storage.absolute(config.workspace), source)
    return source if storage.exists(source) else None
