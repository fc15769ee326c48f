"""`--help` names every key of a config, with type, default and meaning."""

from pydantic import Field

from moss.config.base import Config
from moss.config.describe import describe_keys


class CrustConfig(Config):
    """A section."""

    thickness_mm: float = Field(2.5, gt=0)
    """Measured at the edge,
    in `millimetres`."""


class GrainConfig(Config):
    """An item of a list."""

    name: str


class LoafConfig(Config):
    """The whole."""

    size: int | None = None
    crust: CrustConfig = CrustConfig()
    grains: tuple[GrainConfig, ...]
    prices: dict[str, float] = Field(default_factory=dict)


def test_every_key_has_type_default_and_meaning() -> None:
    assert describe_keys(LoafConfig).splitlines() == [
        "  size: int | None = None",
        "  crust.thickness_mm: float = 2.5",
        "      Measured at the edge, in millimetres.",
        "  grains: tuple[GrainConfig, ...] no default",
        "  grains[].name: str no default",
        "  prices: dict[str, float] = {}",
    ]
