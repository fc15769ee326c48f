"""A small road made by the stages' own code, without Ray: every run with its report and viewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from actors.collection import collect_prompts
from actors.labelling import label_preferences
from actors.session import TeacherSession
from actors.synthesis import synthesize_conversations, synthesize_prompts
from actors.tool_synthesis import synthesize_tool_conversations
from moss.config import StageConfig
from moss.config.labelling import LabelPreferencesConfig
from moss.config.model import ModelConfig
from moss.config.synthesis import (
    CollectPromptsConfig,
    SynthesisConfig,
    SynthesizeConversationsConfig,
    SynthesizePromptsConfig,
    SynthesizeToolConversationsConfig,
)
from moss.lineage import Run
from moss.models import build_policy_for
from moss.synthesis_inputs import (
    demonstrations_by_language,
    load_prompt_seeds,
    load_red_team_rows,
)
from moss.synthesis_rows import Outcome, ok_rows
from moss.tokenizer import MossTokenizer
from tests import stub_teacher
from tests.local_session import LocalSession
from tests.stub_endpoint import StubEndpoint, running

PRICES = {
    name: {"prompt": "2.5", "completion": "10"} for name in stub_teacher.MODELS if name != "gpt-4"
}


class Road:
    """Finished runs in one workspace."""

    def __init__(self, workspace: Path, endpoint: StubEndpoint) -> None:
        self.workspace = workspace
        self._endpoint = endpoint

    def values(self, run_id: str, **values: object) -> dict[str, object]:
        teacher = {"base_url": self._endpoint.base_url, "backoff_s": 0, "prices": PRICES}
        return {"workspace": str(self.workspace), "run_id": run_id, "teacher": teacher, **values}

    def run(
        self,
        stage: str,
        config: SynthesisConfig,
        make: Callable[[TeacherSession], Outcome],
        inputs: Mapping[str, str],
    ) -> None:
        folders = {name: config.run_path(run_id) for name, run_id in inputs.items()}
        with Run.open(config, stage, inputs=folders) as run:
            ledger = str(self.workspace / "ledgers" / config.run_id)
            session = LocalSession(config, ledger, seed=config.seed)
            outcome = make(session.as_session())
            session.finish(run, outcome)

    def prompts(self, run_id: str, **values: object) -> None:
        config = SynthesizePromptsConfig.model_validate(self.values(run_id, **values))
        inputs = {} if config.seeds is None else {"seeds": config.seeds}
        self.run(
            "synthesize_prompts",
            config,
            lambda session: synthesize_prompts(
                config, session, seeds=load_prompt_seeds(config), red_team=load_red_team_rows()
            ),
            inputs,
        )

    def conversations(self, run_id: str, prompts: str, **values: object) -> None:
        config = SynthesizeConversationsConfig.model_validate(
            self.values(run_id, prompts=prompts, meta_version="tiny", **values)
        )
        self.run(
            "synthesize_conversations",
            config,
            lambda session: synthesize_conversations(
                config, session, prompts=ok_rows(config.run_path(prompts), "prompts")
            ),
            {"prompts": prompts},
        )

    def collected(self) -> None:
        config = CollectPromptsConfig.model_validate(
            self.values("collected", num_seeds=12, visitors={"num_prompts": 40})
        )
        self.run(
            "collect_prompts",
            config,
            lambda session: collect_prompts(config, session, served=None),
            {},
        )

    def tools(self) -> None:
        config = SynthesizeToolConversationsConfig.model_validate(
            self.values(
                "tools",
                conversations="conversations",
                quotas={"calculator": {"en": 12}},
                meta_version="tiny",
                tools={"enabled": ["calculator"]},
                self_instruct={"seed_only_iterations": 1, "max_iterations": 20},
            )
        )
        self.run(
            "synthesize_tool_conversations",
            config,
            lambda session: synthesize_tool_conversations(
                config,
                session,
                demonstrations=demonstrations_by_language(),
                conversations=ok_rows(config.run_path("conversations"), "conversations"),
            ),
            {"conversations": "conversations"},
        )

    def preferences(self, checkpoint: Path) -> None:
        self._policy(checkpoint)
        config = LabelPreferencesConfig.model_validate(
            self.values(
                "preferences",
                conversations="conversations",
                checkpoint="MOSS-SFT",
                num_prompts=4,
                validation_share=0.3,
                response={"max_tokens": 8, "batch_rows": 4},
            )
        )
        self.run(
            "label_preferences",
            config,
            lambda session: label_preferences(
                config,
                session,
                conversations=ok_rows(config.run_path("conversations"), "conversations"),
                checkpoint_folder=config.run_path("MOSS-SFT") + "/checkpoint",
            ),
            {"conversations": "conversations", "policy": "MOSS-SFT"},
        )

    def _policy(self, checkpoint: Path) -> None:
        config = StageConfig(workspace=str(self.workspace), run_id="MOSS-SFT")
        with Run.open(config, "train_sft", inputs={}) as run:
            tokenizer = MossTokenizer.load(checkpoint)
            tokenizer.save(run.path("checkpoint"))
            shape = ModelConfig(
                hidden_size=32, num_layers=1, num_heads=1, intermediate_size=64, max_positions=512
            )
            build_policy_for(tokenizer, shape, seed=0).save_pretrained(run.path("checkpoint"))
            run.finish(outputs=["checkpoint"], counts={}, model_name="MOSS-SFT")


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Road]:
    """Warm-up prompts, collected seeds, aligned prompts, conversations, tools, preferences."""
    stub = StubEndpoint(stub_teacher.respond, models=stub_teacher.MODELS)
    with running(stub) as endpoint:
        made = Road(tmp_path_factory.mktemp("road"), endpoint)
        few = {"seed_only_iterations": 1, "round_iterations": 2, "max_iterations": 12}
        made.prompts(
            "warmup",
            quotas={"helpfulness": {"en": 20}, "honesty": {"en": 6}},
            red_team={"en": 2},
            self_instruct=few,
        )
        made.collected()
        made.prompts(
            "prompts",
            seeds="collected",
            quotas={"complex_instruction": {"en": 24}, "honesty": {"en": 4, "zh": 2}},
            self_instruct=few,
        )
        made.conversations(
            "conversations",
            "prompts",
            turns={"mu": 1.6, "sigma": 0.6, "max_turns": 3},
            splits={"preference": 0.4},
        )
        made.tools()
        made.preferences(tiny_checkpoint)
        yield made
