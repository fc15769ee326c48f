"""Configuration of the evaluation (paper sections 6, 7.2 and 8.3)."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from moss.config.base import Config
from moss.config.synthesis import SamplingConfig, SynthesisConfig
from moss.config.tools import ToolsConfig
from moss.types import QUALITY_LEVELS, ToolName


class WinRateConfig(Config):
    """Pairwise comparison on held-out prompts (section 7.2, Fig. 8)."""

    num_prompts: int = Field(1200, ge=2)
    """Section 6: 1.2K held-out prompts; fewer if the eval split is smaller, and said so."""
    judge_sampling: SamplingConfig = SamplingConfig(max_tokens=256, temperature=0.0)


class QualityControlConfig(Config):
    """Score of responses by requested quality tag (section 7.2)."""

    num_prompts: int = Field(300, ge=2)


class ToolEvaluationConfig(Config):
    """Tool control (section 8.3, Fig. 10) and tool benefit (Fig. 11)."""

    tools: tuple[ToolName, ...] = ("calculator", "equation_solver", "web_search")
    num_queries: int = Field(300, ge=1)
    """Fresh queries per tool, each with the tool on and off. The paper gives no number; 300 hold a
    share to 6 points on either side (95 % interval)."""
    zh_share: float = Field(0.5, ge=0, le=1)
    other_tool_probability: float = Field(0.5, ge=0, le=1)
    """Chance of each tool that the query does not need to be on, in both arms alike."""
    meta_version: str = "moss-003"
    num_concurrent: int = Field(64, ge=1)
    """Turns walked at once; their sections are generated in batches."""
    max_thought_tokens: int = Field(64, ge=1)
    max_command_tokens: int = Field(64, ge=1)


class GenerationConfig(Config):
    """How the evaluated models answer."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.8, gt=0, le=1)
    batch_size: int = Field(64, ge=1)
    score_token_budget: int = Field(16_384, ge=64)
    """Padded tokens of one forward pass of the preference model."""
    device: str = "cpu"
    num_threads: int = Field(1, ge=1)


class TargetsConfig(Config):
    """What counts as a pass; a number below is shown as falling short, never hidden."""

    preference_accuracy: float = Field(0.9, ge=0, le=1)
    quality_spearman: float = Field(0.8, ge=-1, le=1)
    tool_recall: float = Field(0.9, ge=0, le=1)
    tool_false_calls: float = Field(0.05, ge=0, le=1)


class HeldOutConfig(SynthesisConfig):
    """What every comparison of models on held-out prompts needs."""

    reads_any_storage: ClassVar[bool] = False

    conversations: str = "conversations"
    """Run whose `eval` split holds the prompts."""
    training_data: tuple[str, ...] = ("conversations", "tool-conversations")
    """Runs in whose training splits no evaluation prompt may occur."""
    preference_model: str = "preference-model"
    sft: str = "MOSS-SFT"
    pat: str = "MOSS-PAT"
    ppo: str = "MOSS-PPO"
    win_rate: WinRateConfig = WinRateConfig()
    quality_control: QualityControlConfig = QualityControlConfig()
    generation: GenerationConfig = GenerationConfig()

    def models_asked(self) -> tuple[str, ...]:
        """The judge."""
        return (self.teacher.model("judge"),)


class EvaluateConfig(HeldOutConfig):
    """Evaluate the road: preference accuracy, quality tags, win rates, tool control and benefit."""

    run_id: str = "evaluation"
    preferences: str = "preferences"
    """Run of judged pairs; its validation split measures the preference model."""
    tool_model: str = "MOSS-PAT"
    """Checkpoint whose use of tools is measured: the served one."""
    tool_quality: int | None = 100
    """Tag its replies are conditioned on; None for a model that was never tagged."""
    tool_evaluation: ToolEvaluationConfig = ToolEvaluationConfig()
    tools: ToolsConfig = ToolsConfig()
    targets: TargetsConfig = TargetsConfig()

    @model_validator(mode="after")
    def measured_tools_are_built(self) -> Self:
        """A tool that is measured must run."""
        missing = sorted(set(self.tool_evaluation.tools) - set(self.tools.enabled))
        if missing:
            raise ValueError(
                f"tool_evaluation.tools has {', '.join(missing)}, which tools.enabled lacks"
            )
        return self

    @model_validator(mode="after")
    def tag_is_a_known_level(self) -> Self:
        """A tag outside the six levels was never trained."""
        if self.tool_quality is not None and self.tool_quality not in QUALITY_LEVELS:
            raise ValueError(f"tool_quality={self.tool_quality} is not one of {QUALITY_LEVELS}")
        return self


class BestOfConfig(Config):
    """Best of n: SFT answers n times, the preference model takes the answer it scores highest."""

    num_samples: int = Field(4, ge=2)


class CompareConfig(HeldOutConfig):
    """Compare SFT, PAT, PPO and others on the same prompts: quality, KL, length and cost."""

    run_id: str = "comparison"
    rejection_sampling: str | None = None
    """Run of `train_rejection_sampling` to compare as well; null for none."""
    best_of_n: BestOfConfig | None = None
    """Null leaves it out; `{}` takes every default."""
    num_kl_prompts: int = Field(64, ge=2)
    """Prompts that the KL from SFT is measured on, by one response each at temperature 1."""
    quality_spearman: float = Field(0.8, ge=-1, le=1)
    """Rank correlation of tag and mean score from which PAT's score rises with the tag."""

    @property
    def trained(self) -> tuple[str, ...]:
        """Runs of the methods that train a model of their own, SFT first."""
        others = (self.sft, self.pat, self.ppo, self.rejection_sampling)
        return tuple(name for name in others if name is not None)
