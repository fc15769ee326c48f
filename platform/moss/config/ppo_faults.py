"""What a PPO run survives, and how often, and what it keeps for that."""

from __future__ import annotations

from pydantic import Field

from moss.config.base import Config


class PPOFaultsConfig(Config):
    """Bounds of recovery: past them, a run ends with the fault's own error."""

    max_restarts_per_role: int = Field(10, ge=0)
    """Rollout, reward and reference actors that die, or give no answer within `timeouts`, are
    killed, started anew and asked again, so often for each of these roles in one attempt."""
    max_resumes: int = Field(3, ge=0)
    """Times that the death or silence of a policy or critic actor sends the run back to its last
    training state (to the start, if none was saved yet) with all actors started anew."""
    max_failed_saves: int = Field(3, ge=1)
    """Training states in a row that may fail to be written (a full disk) while the run goes on with
    the last one that was; this many end it."""
    keep_best: int = Field(0, ge=0)
    """Training states kept beside the newest `keep_checkpoints`, by mean score of the responses of
    the iteration that ended with them."""
    dump_rollouts_every: int | None = Field(None, ge=1)
    """Iterations between dumps of rollouts and scores for `jobs.replay_ppo`; null for none."""

    def dumps_rollouts_of(self, iteration: int) -> bool:
        """Whether an iteration, counted from 1, is dumped."""
        return self.dump_rollouts_every is not None and iteration % self.dump_rollouts_every == 0
