"""Tools inside rollouts: what is inserted, what is masked, and that no token is made twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from moss.chat import Command, Conversation, ToolResult, Turn
from moss.chat_rendering import ChatRenderer
from moss.config.ppo import PPOConfig
from moss.config.rollout import SamplingParams, ToolRolloutConfig
from moss.errors import ConfigError, DataError
from moss.experience import ScoredRollouts, make_experience
from moss.forward import response_logprobs
from moss.meta_instruction import MetaInstruction
from moss.models import load_policy
from moss.part_losses import policy_part
from moss.ppo_prompts import render_prompts
from moss.rewards.base import PromptFacts, RewardBatch
from moss.rollouts import Rollout, RolloutBatch, SampleRequest
from moss.sampling import TransformersSampler, in_order
from moss.tokenizer import ControlStyle, MossTokenizer, add_controls, train_bpe
from moss.tool_rollouts import ToolRollouts, tool_call_metrics
from moss.tools.base import FinishedCall
from moss.tools.runner import ToolRunner, ToolTurn
from moss.weight_files import WeightFile

PARAMS = SamplingParams(max_new_tokens=12)
META = MetaInstruction("tiny", inner_thoughts=True, tools=frozenset({"calculator"}))


class Writer:
    """A sampler that writes given texts, section by section, and remembers what it was asked."""

    def __init__(self, tokenizer: MossTokenizer, *texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._texts = [list(sections) for sections in texts]
        self.requests: list[SampleRequest] = []
        self.version = 3

    @property
    def policy_version(self) -> int:
        return self.version

    def generate(
        self, requests: Sequence[SampleRequest], params: SamplingParams, stop_ids: Sequence[int]
    ) -> list[Rollout]:
        self.requests += requests
        return [self._write(request, stop_ids) for request in requests]

    def _write(self, request: SampleRequest, stop_ids: Sequence[int]) -> Rollout:
        text = self._texts[request.prompt_ids[0]].pop(0)
        ids = self.encode(text)
        limit = request.max_new_tokens or 99
        logprobs = [-0.25 - 0.001 * position for position in range(len(ids))]
        stopped = len(ids) <= limit and ids[-1] in stop_ids
        return Rollout(
            request.prompt_ids, ids[:limit], logprobs[:limit], 3, "stop" if stopped else "length"
        )

    def encode(self, text: str) -> list[int]:
        """Text with one end marker, which becomes its token."""
        body, mark, _ = text.partition("<eo")
        end = {name: i for name, i in self._tokenizer.controls.items() if name.startswith("<eo")}
        ends = [i for name, i in end.items() if mark and name.startswith(text[len(body) :])]
        return self._tokenizer.encode(body) + ends

    def push_weights(self, file: WeightFile) -> None:
        raise AssertionError("never pushed to")

    def close(self) -> None:
        return


@pytest.fixture(scope="module", params=["special", "text"])
def renderer(request: pytest.FixtureRequest) -> ChatRenderer:
    texts = ["Calculate 12+7. <|Results|>: <|MOSS|>: 'No result.' => 1234567890 xyz,"] * 10
    style: ControlStyle = "special" if request.param == "special" else "text"
    return ChatRenderer(add_controls(train_bpe(texts, vocab_size=280), style=style))


@pytest.fixture(scope="module")
def runner() -> Iterator[ToolRunner]:
    started = ToolRunner(ToolRolloutConfig(max_rounds=1, enabled=("calculator",)), concurrency=2)
    yield started
    started.close()


def tool_config(**changes: object) -> ToolRolloutConfig:
    return ToolRolloutConfig.model_validate({"max_rounds": 1, "max_results_tokens": 120} | changes)


def sample(
    renderer: ChatRenderer,
    runner: ToolRunner,
    *texts: Sequence[str],
    config: ToolRolloutConfig | None = None,
    meta: MetaInstruction = META,
    params: SamplingParams | None = None,
) -> tuple[list[Rollout], Writer]:
    """Rollouts of a writer; the first id of each prompt is its row."""
    conversation = Conversation(meta, (Turn("What is 12+7?", ""),))
    rows = [{"id": "q", "conversation": conversation.to_json()}]
    prompts = render_prompts(rows, renderer, max_tokens=2000, seed=0, with_tools=True)
    (request,) = prompts.batch(0, 1)
    requests = [
        replace(request, prompt_ids=[row, *request.prompt_ids], seed=row)
        for row in range(len(texts))
    ]
    writer = Writer(renderer.tokenizer, *texts)
    rollouts = ToolRollouts(writer, renderer, runner, config or tool_config())
    params = params or SamplingParams(max_new_tokens=40)
    return in_order(rollouts.stream(requests, params)), writer


def text_of(renderer: ChatRenderer, rollout: Rollout) -> str:
    return renderer.tokenizer.decode(rollout.prompt_ids[1:] + rollout.response_ids)


def test_a_turn_with_a_call_is_the_rendered_conversation_token_by_token(
    renderer: ChatRenderer, runner: ToolRunner
) -> None:
    (rollout,), writer = sample(
        renderer,
        runner,
        [" I add.<eot>", ' Calculate("12+7")<eoc>', " It is 19.<eom>"],
    )
    command = Command("Calculate", "12+7")
    turn = Turn(
        human="What is 12+7?",
        inner_thoughts="I add.",
        commands=(command,),
        results=(ToolResult(command, "'19'"),),
        moss="It is 19.",
    )
    whole = renderer.render(Conversation(META, (turn,)))
    ids = rollout.prompt_ids[1:] + rollout.response_ids
    assert ids == whole.ids[: len(ids)]
    assert renderer.tokenizer.decode(whole.ids[len(ids) :]) in ("", "\n")
    batch = RolloutBatch.from_rollouts([rollout], pad_id=0)
    # What carries loss in supervised training of one's own words is what the policy sampled.
    assert batch.mask_BT[0, 1:].tolist() == [bool(loss) for loss in whole.loss_mask[: len(ids)]]
    sampled = [i for i, used in enumerate(batch.mask_BT[0]) if used]
    assert np.all(batch.rollout_logprobs_BT[0, sampled] <= -0.25)
    assert np.all(np.delete(batch.rollout_logprobs_BT[0], sampled) == 0.0)
    for request in writer.requests:  # each section is sampled after exactly the tokens before it
        whole_row = rollout.prompt_ids + rollout.response_ids
        assert request.prompt_ids == whole_row[: len(request.prompt_ids)]
    assert len({request.seed for request in writer.requests}) == 3
    assert rollout.finish_reason == "stop"
    assert rollout.policy_version == 3


@pytest.mark.parametrize(
    ("commands", "results"),
    [
        ("None", " None<eor>\n"),
        ("Calculate(12+7", " None<eor>\n"),
        ('Calculate("import os")', "\nCalculate(\"import os\") => 'No result.'\n<eor>\n"),
        ('Search("moon")', '\nSearch("moon") =>\nNo result.\n<eor>\n'),
        ('Launch("moon")', '\nLaunch("moon") =>\nNo result.\n<eor>\n'),
        (
            'Calculate("1+1"), Calculate("2+2"), Calculate("3+3")',
            "\nCalculate(\"1+1\") => '2'\nCalculate(\"2+2\") => '4'\n<eor>\n",
        ),
    ],
)
def test_commands_that_do_not_run_are_told_so_in_the_tools_own_layout(
    renderer: ChatRenderer, runner: ToolRunner, commands: str, results: str
) -> None:
    (rollout,), _ = sample(
        renderer,
        runner,
        [" x<eot>", f" {commands}<eoc>", " y<eom>"],
        config=tool_config(max_calls=2),
    )
    assert f"<|Results|>:{results}<|MOSS|>: y<eom>" in text_of(renderer, rollout)
    assert rollout.num_calls == results.count("=>")
    assert rollout.num_failed_calls == results.count("No result.")


def test_switches_decide_where_a_response_begins(
    renderer: ChatRenderer, runner: ToolRunner
) -> None:
    silent = replace(META, inner_thoughts=False)
    (rollout,), _ = sample(renderer, runner, [' Calculate("1+1")<eoc>', " 2<eom>"], meta=silent)
    assert "<|Inner Thoughts|>: None<eot>\n<|Commands|>: Calculate" in text_of(renderer, rollout)
    toolless = replace(META, tools=frozenset())
    (rollout,), _ = sample(renderer, runner, [" x<eot>", " y<eom>"], meta=toolless)
    assert "x<eot>\n<|Commands|>: None<eoc>\n<|Results|>: None<eor>\n<|MOSS|>: y<eom>" in text_of(
        renderer, rollout
    )
    (rollout,), _ = sample(renderer, runner, [" y<eom>"], meta=MetaInstruction("tiny"))
    assert rollout.inserted == []


def test_limits_end_a_response_and_are_never_passed(
    renderer: ChatRenderer, runner: ToolRunner
) -> None:
    config = tool_config(max_thought_tokens=3, max_command_tokens=30)
    long, fits = [" a b c d e f<eot>"], [" a<eot>", " None<eoc>", " one two three four five<eom>"]
    rollouts, _ = sample(
        renderer, runner, long, fits, config=config, params=SamplingParams(max_new_tokens=4)
    )
    assert [rollout.finish_reason for rollout in rollouts] == ["length", "length"]
    assert (len(rollouts[0].response_ids), rollouts[0].inserted) == (3, [])
    assert len(rollouts[1].response_ids) - rollouts[1].inserted[-1][1] == 4


def test_results_that_are_too_long_are_no_result_and_the_least_must_fit(
    renderer: ChatRenderer, runner: ToolRunner
) -> None:
    empty = Turn("", "")
    header = len(renderer.bridge_ids(empty, "inner_thoughts", "commands"))
    least = max(
        header + len(renderer.bridge_ids(empty, "commands", "moss")),
        len(renderer.bridge_ids(empty, "inner_thoughts", "moss")),
    )
    call = [" x<eot>", ' Calculate("10**40")<eoc>', " y<eom>"]
    (whole,), _ = sample(renderer, runner, call, config=tool_config(max_results_tokens=300))
    begin, end = whole.inserted[-1]
    needed = header + end - begin
    assert "1" + "0" * 40 in text_of(renderer, whole)
    (cut,), _ = sample(renderer, runner, call, config=tool_config(max_results_tokens=needed - 1))
    assert "=> 'No result.'" in text_of(renderer, cut)
    (none,), _ = sample(renderer, runner, call, config=tool_config(max_results_tokens=least))
    assert "<|Results|>: None<eor>" in text_of(renderer, none)
    with pytest.raises(ConfigError, match=f"take {least} tokens"):
        sample(renderer, runner, call, config=tool_config(max_results_tokens=least - 1))


def test_further_rounds_take_commands_that_end_as_commands(
    renderer: ChatRenderer, runner: ToolRunner
) -> None:
    texts = [
        " x<eot>",
        ' Calculate("1+1")<eoc>',
        ' Calculate("2+2")<eoc>',
        ' Calculate("3+3")<eoc>',
        " 6<eom>",
    ]
    params = SamplingParams(max_new_tokens=90)
    (one,), _ = sample(renderer, runner, texts, params=params)
    assert "=> '2'" in text_of(renderer, one)
    assert "=> '4'" not in text_of(renderer, one)
    assert one.finish_reason == "stop"
    (two,), _ = sample(renderer, runner, texts, config=tool_config(max_rounds=3), params=params)
    assert [f"=> '{n}'" in text_of(renderer, two) for n in (2, 4, 6)] == [True, True, True]
    (short,), _ = sample(
        renderer,
        runner,
        texts,
        config=tool_config(max_rounds=3),
        params=SamplingParams(max_new_tokens=len(renderer.tokenizer.encode(texts[2][:-5])) + 1),
    )
    assert short.response_ids[-1] == renderer.end_id("commands")  # no token left for a reply


class Broken(ToolRunner):
    """Tools that answer too late."""

    def run(
        self, turns: Sequence[ToolTurn], *, timeout_s: float
    ) -> list[tuple[FinishedCall, ...] | None]:
        return [None for _ in turns]


def test_late_tools_have_no_result(renderer: ChatRenderer) -> None:
    late = Broken(ToolRolloutConfig(), concurrency=1)
    (rollout,), _ = sample(renderer, late, [" x<eot>", ' Calculate("1+1")<eoc>', " y<eom>"])
    assert "Calculate(\"1+1\") => 'No result.'" in text_of(renderer, rollout)
    counts = tool_call_metrics([rollout, replace(rollout, inserted=[], num_calls=0)])
    assert counts == {"rollout/tool_calls_count": 1, "rollout/failed_tool_calls_count": 2}
    late.close()


def test_rewards_read_the_reply_and_only_that(renderer: ChatRenderer, runner: ToolRunner) -> None:
    rollouts, _ = sample(
        renderer,
        runner,
        [" x<eot>", ' Calculate("12+7")<eoc>', " It is 19.<eom>"],
        [" never ends"],
    )
    batch = RolloutBatch.from_rollouts(rollouts, pad_id=0)
    done, cut = RewardBatch(batch, [PromptFacts("a"), PromptFacts("b")], renderer).rows()
    assert (done.reply, done.finished) == ("It is 19.", True)
    assert (cut.reply, cut.finished) == ("", False)
    assert "Calculate(\"12+7\") => '19'" in done.response


@pytest.fixture(scope="module")
def policy(tiny_checkpoint: Path) -> PreTrainedModel:
    torch.set_num_threads(1)
    return load_policy(tiny_checkpoint)


@pytest.fixture(scope="module")
def sampled(policy: PreTrainedModel, tiny_checkpoint: Path, runner: ToolRunner) -> RolloutBatch:
    """Rollouts of a real policy whose sections end where a common token falls."""
    tokenizer = MossTokenizer.load(tiny_checkpoint)
    conversation = Conversation(META, (Turn("?", ""),))
    rows = [{"id": str(n), "conversation": conversation.to_json()} for n in range(24)]
    prompts = render_prompts(rows, ChatRenderer(tokenizer), max_tokens=70, seed=1, with_tools=True)
    sampler = TransformersSampler(policy, pad_id=tokenizer.pad_id)
    config = tool_config(max_thought_tokens=12, max_command_tokens=12, max_results_tokens=30)
    rollouts = ToolRollouts(sampler, ChatRenderer(tokenizer), runner, config)
    # Any of a third of all tokens ends a section, as a policy of random weights seldom ends one.
    rollouts._ends = [*rollouts._ends, *range(100, 200)]
    found = in_order(rollouts.stream(prompts.batch(0, 24), PARAMS))
    assert sum(len(rollout.inserted) == 2 for rollout in found) > 12
    return RolloutBatch.from_rollouts(found, pad_id=tokenizer.pad_id)


def test_logprobs_of_all_sections_equal_one_forward_pass_over_the_whole(
    policy: PreTrainedModel, sampled: RolloutBatch
) -> None:
    with torch.no_grad():
        logprobs = response_logprobs(
            policy,
            torch.from_numpy(sampled.tokens_BT),
            torch.from_numpy(sampled.mask_BT),
            temperature=1.0,
        )
    assert np.allclose(logprobs.numpy(), sampled.rollout_logprobs_BT, atol=1e-4)
    assert np.all(sampled.rollout_logprobs_BT[~sampled.mask_BT] == 0.0)


def test_inserted_tokens_are_no_targets_and_move_no_weight(
    policy: PreTrainedModel, sampled: RolloutBatch
) -> None:
    heads: list[int] = []
    hook = policy.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: heads.append(output.shape[0])
    )
    gradients = [gradient(policy, sampled, garbage) for garbage in (0.0, 1e6)]
    hook.remove()
    assert heads == [sampled.num_response_tokens] * 2
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert any(bool(part.abs().sum() > 0) for part in gradients[0])


def gradient(policy: PreTrainedModel, batch: RolloutBatch, garbage: float) -> list[torch.Tensor]:
    """Of the policy's loss, with garbage where nothing may be read."""
    ppo = PPOConfig(kl_placement="loss", kl_estimator="k3", estimator="reinforce_pp")
    filled = np.where(batch.mask_BT, batch.rollout_logprobs_BT, garbage).astype(np.float32)
    rows = batch.num_rollouts
    scores = np.linspace(-1, 1, rows).astype(np.float32)
    scored = ScoredRollouts(batch, np.arange(rows), scores, filled, filled - 0.1, None)
    experience, _ = make_experience(scored, ppo, score_scale=1.0, kl_coefficient=0.1)
    policy.zero_grad()
    part = policy_part(ppo, temperature=1.0)
    part(policy, experience, batch.num_response_tokens).loss.backward()  # type: ignore[no-untyped-call]
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def test_a_response_never_ends_with_inserted_tokens() -> None:
    rollout = Rollout([1], [2, 3], [0.0, 0.0], 0, "stop", inserted=[(1, 2)])
    with pytest.raises(DataError, match="ends with tokens that the policy did not sample"):
        RolloutBatch.from_rollouts([rollout], pad_id=0)
