"""What `plan` plans: a PPO config, the shapes of its models, how many prompts there will be."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from jobs.entry import config_path
from jobs.road_plan import RoadPlan
from moss import storage
from moss.config.base import load_config
from moss.config.corpus import TrainTokenizerConfig
from moss.config.plan import PlanConfig
from moss.config.road import RoadConfig
from moss.config.training import (
    PretrainConfig,
    TrainPATConfig,
    TrainPreferenceModelConfig,
    TrainSFTConfig,
)
from moss.errors import ConfigError
from moss.model_shapes import ModelShape, largest_vocab_size, read_shape
from moss.ppo_plan import Models
from moss.tokenizer import CONTROL_FILE, MossTokenizer

JOB = "train_ppo"


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a plan is made from."""

    config: PlanConfig
    models: Models
    num_prompts: int | None
    """Most prompts that the prompt run of the road can hold; None where no road says it."""


def load_plan_inputs(
    name: str, overrides: Sequence[str], *, workspace: str | None = None
) -> PlanInputs:
    """Read a road's PPO stage, or a config of `train_ppo` itself.

    Args:
        name: a shipped road or a YAML file of either kind.
        overrides: `key=value` of the PPO config; they come last and win.
    Raises:
        ConfigError: no such config, a wrong key, or nothing that says a model's shape.
        DataError: a checkpoint of a shape that cannot be planned.
    """
    file = config_path("run_road", name)
    set_workspace = [f"workspace={json.dumps(workspace)}"] if workspace else []
    if not _is_road(file):
        config = load_config(PlanConfig, file, [*overrides, *set_workspace])
        return PlanInputs(config, _models(config, None), None)
    road = RoadPlan(load_config(RoadConfig, file, set_workspace), python=sys.executable)
    stages = [stage for stage in road.config.stages if stage.job == JOB]
    if len(stages) != 1:
        raise ConfigError(
            f"{file} has {len(stages)} stages of {JOB}, expected 1; give --config a YAML file of "
            f"{JOB} instead"
        )
    settings = stages[0].set | {"workspace": road.workspace, "run_id": stages[0].run_id}
    own = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    config = load_config(PlanConfig, config_path(JOB, stages[0].config), [*own, *overrides])
    return PlanInputs(config, _models(config, road), _num_prompts(config, road))


def _is_road(file: Path) -> bool:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False  # load_config says what is wrong with it
    return isinstance(data, dict) and "stages" in data


def _models(config: PlanConfig, road: RoadPlan | None) -> Models:
    policy = _find_shape("policy", config.policy, config, road)
    if not config.uses_preference_model:
        return Models(policy, policy)
    preference_model = _find_shape("preference_model", config.preference_model, config, road)
    return Models(policy, preference_model)


def _find_shape(key: str, run: str, config: PlanConfig, road: RoadPlan | None) -> ModelShape:
    if config.model is not None and config.vocab_size is not None:
        return ModelShape(config.model, config.vocab_size, "model and vocab_size of the config")
    folder = storage.absolute(config.run_path(run))
    if Path(folder, "checkpoint", "config.json").is_file():
        return read_shape(storage.join(folder, "checkpoint"))
    pretrain = _pretrain_stage(run, road)
    tokenizer = road.configs.get(pretrain.tokenizer) if road and pretrain else None
    if pretrain is None or not isinstance(tokenizer, TrainTokenizerConfig):
        raise ConfigError(
            f"{key}={run!r} has no checkpoint in {folder}, and no pretrain and train_tokenizer "
            "stage of a road leads to it, so nothing says the model's shape; set model.hidden_size,"
            " model.num_layers, ... and vocab_size, or give --config a road"
        )
    return _future_shape(pretrain, tokenizer, config)


def _pretrain_stage(run: str, road: RoadPlan | None) -> PretrainConfig | None:
    """The stage that fixes a run's architecture: the first of those that it is trained from."""
    config = road.configs.get(run) if road else None
    while road and isinstance(config, TrainSFTConfig | TrainPATConfig | TrainPreferenceModelConfig):
        config = road.configs.get(config.base)
    return config if isinstance(config, PretrainConfig) else None


def _future_shape(
    pretrain: PretrainConfig, tokenizer: TrainTokenizerConfig, config: PlanConfig
) -> ModelShape:
    source = f"the road's {pretrain.run_id}"
    if config.vocab_size is not None:
        return ModelShape(pretrain.model, config.vocab_size, f"{source}, vocab_size of the config")
    trained = storage.join(storage.absolute(tokenizer.run_path(tokenizer.run_id)), "checkpoint")
    if Path(trained, CONTROL_FILE).is_file():
        rows = MossTokenizer.load(trained).padded_vocab_size
        return ModelShape(pretrain.model, rows, f"{source} and its trained tokenizer")
    rows = largest_vocab_size(tokenizer)
    return ModelShape(pretrain.model, rows, f"{source}, with the most tokens its tokenizer can get")


def _num_prompts(config: PlanConfig, road: RoadPlan) -> int | None:
    prompts = road.configs.get(config.prompts)
    return prompts.num_conversations if isinstance(prompts, TrainPATConfig) else None
