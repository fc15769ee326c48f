"""Configuration classes, light to import: pydantic and YAML only, never torch or Ray."""

from moss.config.base import (
    Config,
    StageConfig,
    config_digest,
    dump_config,
    load_config,
    parse_config,
)

__all__ = [
    "Config",
    "StageConfig",
    "config_digest",
    "dump_config",
    "load_config",
    "parse_config",
]
