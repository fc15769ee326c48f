"""Configuration: mistakes name what was meant, overrides apply, digests follow content."""

from pathlib import Path

import pytest
from pydantic import Field

from moss.config import Config, config_digest, dump_config, load_config, parse_config
from moss.config.ppo import TrainPPOConfig
from moss.errors import ConfigError


class Optimizer(Config):
    learning_rate: float = Field(0.1, gt=0)
    warmup_ratio: float = 0.0


class Source(Config):
    path: str


class Price(Config):
    prompt: float


class Stage(Config):
    prices: dict[str, Price] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    quotas: dict[str, dict[str, int]] = Field(default_factory=dict)
    prompts: str = "p"
    sampling_seed: int = 1
    optimizer: Optimizer = Optimizer()
    sources: tuple[Source, ...] = ()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("promts: a", "'promts'; did you mean 'prompts'?"),
        ("optimizer: {learning_rat: 1}", "did you mean 'optimizer.learning_rate'?"),
        ("learning_rat: 1", "did you mean 'optimizer.learning_rate'?"),
        ("sources: [{pth: x, path: y}]", "did you mean 'sources.0.path'?"),
        ("zzz: 1", "known keys: optimizer, prices, prompts, quotas, sampling_seed, sources"),
    ],
)
def test_a_mistyped_key_names_the_near_one(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Stage, write(tmp_path, text))
    assert hint in str(caught.value)


def test_every_fault_is_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Stage, write(tmp_path, "optimizer: {learning_rate: -1}\nsampling_sed: 3"))
    assert "greater than 0 (got -1)" in str(caught.value)
    assert "sampling_seed" in str(caught.value)


def test_overrides_reach_nested_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: a")
    config = load_config(Stage, path, ["optimizer.learning_rate=0.5", "prompts=b"])
    assert (config.optimizer.learning_rate, config.prompts) == (0.5, "b")


def test_an_override_of_a_section_leaves_others_with_its_yaml_anchor_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "actors: {policy: &actor {num_cpus: 2}, critic: *actor}")
    actors = load_config(TrainPPOConfig, path, ["actors.critic.num_cpus=3"]).actors
    assert (actors.policy.num_cpus, actors.critic.num_cpus) == (2, 3)


def test_a_part_of_an_overrides_key_that_holds_dots_stands_in_quotes(tmp_path: Path) -> None:
    path = write(tmp_path, "prompts: a")
    overrides = ['prices."gpt-3.5-turbo".prompt=0.5', "weights.'a=b.c'=2", "quotas.code.en=3"]
    config = load_config(Stage, path, overrides)
    assert config.prices["gpt-3.5-turbo"].prompt == 0.5
    assert (config.weights, config.quotas) == ({"a=b.c": 2.0}, {"code": {"en": 3}})


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("prices.gpt-3.5-turbo.prompt=1", """--set 'prices."gpt-3.5-turbo".prompt=1'"""),
        ("prices.gpt-3.5-turbo.input=1", """--set 'prices."gpt-3.5-turbo".input=1'"""),
        ("weights.gpt-3.5-turbo=1", """--set 'weights."gpt-3.5-turbo"=1'"""),
    ],
)
def test_a_name_split_at_its_dots_is_told_how_to_be_quoted(
    tmp_path: Path, override: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Stage, write(tmp_path, "prompts: a"), ["sampling_seed=2", override])
    assert str(caught.value).endswith(f"a name that holds dots stands in quotes: {hint}")


def test_a_key_of_a_mapping_in_a_mapping_is_not_taken_for_a_name_with_dots(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Stage, write(tmp_path, "prompts: a"), ["quotas.code.en=many"])
    assert "quotas.code.en" in str(caught.value)
    assert "quotes" not in str(caught.value)


@pytest.mark.parametrize("override", ["prompts", "=3", "prompts.x=1", 'a"b.c=1', "a..b=1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_config(Stage, write(tmp_path, "prompts: a"), [override])


@pytest.mark.parametrize("text", ["a: [", "- 1", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(Stage, write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Stage, tmp_path / "none.yaml")


def test_dumped_config_loads_to_an_equal_one_with_the_same_digest(tmp_path: Path) -> None:
    config = parse_config(Stage, {"sources": [{"path": "é"}]}, source="test")
    again = load_config(Stage, write(tmp_path, dump_config(config)))
    assert again == config
    assert config_digest(again) == config_digest(config)
    assert config_digest(config) != config_digest(Stage())


def test_an_override_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"override 'prompts=\[foo': the value is not valid YAML"):
        load_config(Stage, write(tmp_path, "prompts: a"), ["prompts=[foo"])


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(Stage, path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "optimizer:\n  learning_rate: 1\n  learning_rate: 2\n")
    with pytest.raises(ConfigError, match=r"'learning_rate' stands in line 2 and again in line 3"):
        load_config(Stage, file)
