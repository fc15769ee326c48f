"""Rewards: the preference model, an endpoint, a function, a judge, or a sum of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from actors.model_process import set_threads
from moss.config.ppo_actors import ActorConfig
from moss.config.rewards import RewardsConfig

if TYPE_CHECKING:
    from moss.rewards.base import PromptFacts, Scores
    from moss.rollouts import RolloutBatch


class RewardActor:
    """Scores whole responses; `load` comes first."""

    def __init__(self, actor: ActorConfig) -> None:
        set_threads(actor.num_threads)
        self._actor = actor

    def load(
        self,
        config: RewardsConfig,
        *,
        preference_model: str,
        policy: str,
        max_rows: int,
        keys: Mapping[str, str],
    ) -> None:
        """Make the terms of the reward; a preference model is read only where it is one.

        Args:
            preference_model: checkpoint folder.
            policy: checkpoint folder of the policy, whose tokenizer turns tokens into text.
            max_rows: rows of one forward pass.
            keys: the driver's keys by environment variable.
        Raises:
            DataError: the folder holds no preference model.
            ConfigError: a function does not import, or a key is missing.
        """
        from moss.chat_rendering import ChatRenderer
        from moss.rewards.combined import RewardSources, build_rewards
        from moss.secret_keys import adopt_keys
        from moss.tokenizer import MossTokenizer

        adopt_keys(keys)
        device = self._actor.device
        self._rewards = build_rewards(config, RewardSources(preference_model, device, max_rows))
        reads_text = any(term.kind != "preference_model" for term in config.terms)
        self._renderer = ChatRenderer(MossTokenizer.load(policy)) if reads_text else None

    def score(self, batch: tuple[RolloutBatch, Sequence[PromptFacts]]) -> Scores:
        """Scores of rollouts, and of whose prompts they are; a failure has a reason.

        Raises:
            RewardError: a reward refuses every row.
        """
        from moss.rewards.base import RewardBatch

        return self._rewards.score(RewardBatch(*batch, self._renderer))
