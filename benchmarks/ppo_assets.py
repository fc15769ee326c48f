"""What a PPO benchmark starts from, made in about a minute: a policy, a preference model, prompts.

A little language: a request names a thing, a reply says one to four things about it. Adjectives and
openings are kind, plain or harsh; `programmed_score` counts them, and the preference model learns
that score from pairs. Every model has 5 million parameters. Prompts take 11 to 14 tokens; replies
take 13 on average and end by themselves.

Shapes: `B` conversations, `T` tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from moss.chat import END_MARKERS, HEADERS
from moss.config.model import ModelConfig
from moss.lm_losses import masked_lm_loss_sum, num_targets
from moss.models import PreferenceModel, build_policy_for, save_model
from moss.models import save_preference_model as save_scorer
from moss.ppo_inputs import PPOInputs
from moss.ppo_prompts import PromptSet
from moss.preference_loss import preference_loss_sum
from moss.tokenizer import MossTokenizer, add_controls, train_bpe

MODEL: Final = ModelConfig(
    hidden_size=256, num_layers=6, num_heads=4, intermediate_size=704, max_positions=512
)
VOCAB_SIZE: Final = 453
NUM_PROMPTS: Final = 512
BATCH: Final = 32
MOST_NEW_TOKENS: Final = 48
POLICY_STEPS: Final = 80
PREFERENCE_STEPS: Final = 80
SEED: Final = 7

_KIND = ("bright", "gentle", "lovely", "warm", "clever", "splendid")
_PLAIN = ("old", "small", "round", "heavy", "quiet", "long", "green", "wooden")
_HARSH = ("ugly", "useless", "boring", "broken", "awful", "stupid")
_THINGS = ("clock", "house", "river", "garden", "table", "horse", "letter", "mirror", "boat")
_NAMES = ("Ann", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Ida", "Jack")
_REQUESTS = (
    "Please describe the {adjective} {thing}, {name}.",
    "What is the {adjective} {thing} like, {name}?",
    "Please tell me about the {adjective} {thing}, {name}.",
    "Please tell me all about the {adjective} {thing}, {name}.",
)
_OPENINGS = {"Gladly!": 0.5, "Of course!": 0.5, "Go away!": -1.0, "Whatever!": -1.0}
_CLOSING = "I hope that helps!"
_NUM_CLAIMS = {1: 0.5, 2: 0.33, 3: 0.11, 4: 0.06}
"""Chances of so many."""


def make_assets(folder: Path, *, num_threads: int) -> None:
    """Train both models and write `policy/` and `preference-model/` as our own stages write them.

    The same seed and number of threads give the same weights.
    """
    torch.set_num_threads(num_threads)
    draw = random.Random(SEED)
    tokenizer = train_tokenizer(draw)
    policy_folder = folder / "policy"
    tokenizer.save(policy_folder)
    policy = build_policy_for(tokenizer, MODEL, seed=SEED)
    _train_policy(policy, tokenizer, draw)
    save_model(policy_folder, policy, tokenizer_folder=None)
    scorer = PreferenceModel.from_policy(policy_folder, seed=SEED)
    _train_scorer(scorer, tokenizer, draw)
    save_scorer(folder / "preference-model", scorer, tokenizer_folder=policy_folder)


def load_assets(folder: Path) -> PPOInputs:
    """What `make_assets` wrote, with its prompts, as PPO reads it."""
    policy, scorer = folder / "policy", folder / "preference-model"
    tokenizer = MossTokenizer.load(policy)
    draw = random.Random(SEED + 1)
    prompts = [encode_prompt(tokenizer, draw_conversation(draw)[0]) for _ in range(NUM_PROMPTS)]
    return PPOInputs(
        policy=str(policy),
        preference_model=str(scorer),
        prompts=PromptSet(
            tuple(f"prompt-{n}" for n in range(NUM_PROMPTS)), tuple(prompts), 0, SEED
        ),
        pad_id=tokenizer.pad_id,
        stop_ids=(end_id(tokenizer),),
        score_scale=PreferenceModel.load(scorer).score_std,
    )


def draw_conversation(draw: random.Random) -> tuple[str, str]:
    """A request and one of its possible replies."""
    thing = draw.choice(_THINGS)
    request = draw.choice(_REQUESTS).format(
        adjective=draw.choice(_PLAIN), thing=thing, name=draw.choice(_NAMES)
    )
    num_claims = draw.choices(list(_NUM_CLAIMS), list(_NUM_CLAIMS.values()))[0]
    parts = [draw.choice(tuple(_OPENINGS))] if draw.random() < 0.6 else []
    for _ in range(num_claims):
        first, second = (draw.choice((*_KIND, *_PLAIN, *_HARSH)) for _ in range(2))
        parts.append(f"the {first} {thing} is {second}.")
    if draw.random() < 0.2:
        parts.append(_CLOSING)
    return request, " ".join(parts)


def train_tokenizer(draw: random.Random) -> MossTokenizer:
    """Every word of the little language is one token."""
    texts = [" " + " ".join(draw_conversation(draw)) for _ in range(2000)]
    return add_controls(train_bpe(texts, vocab_size=VOCAB_SIZE), style="special")


def programmed_score(reply: str) -> float:
    """Kind less harsh adjectives, plus what the opening is worth: what the scorer has to learn."""
    words = reply.replace(".", " ").split()
    adjectives = sum(word in _KIND for word in words) - sum(word in _HARSH for word in words)
    return adjectives + sum(worth for text, worth in _OPENINGS.items() if reply.startswith(text))


def encode_prompt(tokenizer: MossTokenizer, request: str) -> list[int]:
    """The human section and the header of the reply."""
    controls = tokenizer.controls
    return [
        controls[HEADERS["human"]],
        *tokenizer.encode(f" {request}"),
        controls[f"{END_MARKERS['human']}\n"],
        controls[HEADERS["moss"]],
    ]


def encode_reply(tokenizer: MossTokenizer, reply: str) -> list[int]:
    """A reply's body and its end."""
    return [*tokenizer.encode(f" {reply}"), end_id(tokenizer)]


def end_id(tokenizer: MossTokenizer) -> int:
    """The token that ends a reply."""
    return tokenizer.controls[f"{END_MARKERS['moss']}\n"]


def quality_of(inputs: PPOInputs, *, num_replies: int = 128) -> float:
    """Correlation of the preference model with the programmed score, on replies it never saw."""
    tokenizer = MossTokenizer.load(inputs.policy)
    scorer = PreferenceModel.load(inputs.preference_model).eval()
    conversations = [draw_conversation(random.Random(-seed)) for seed in range(1, num_replies + 1)]
    ids_BT, real_BT, _ = _batch(tokenizer, conversations)
    with torch.inference_mode():
        scores_B = scorer(ids_BT, real_BT).numpy()
    expected_B = [programmed_score(reply) for _, reply in conversations]
    return float(np.corrcoef(scores_B, expected_B)[0, 1])


def _train_policy(policy: nn.Module, tokenizer: MossTokenizer, draw: random.Random) -> None:
    assert isinstance(policy, PreTrainedModel)
    batches = _like_lengths(draw)
    for optimizer in _steps(policy, POLICY_STEPS, learning_rate=2e-3):
        ids_BT, _, reply_BT = _batch(tokenizer, next(batches))
        loss = masked_lm_loss_sum(policy, ids_BT, reply_BT) / num_targets(reply_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _train_scorer(scorer: PreferenceModel, tokenizer: MossTokenizer, draw: random.Random) -> None:
    """Pairs of all replies of a batch, in the order of their programmed scores."""
    batches = _like_lengths(draw)
    for optimizer in _steps(scorer, PREFERENCE_STEPS, learning_rate=1e-3):
        conversations = next(batches)
        worths = [programmed_score(reply) for _, reply in conversations]
        pairs = [
            (a, b) if worths[a] > worths[b] else (b, a)
            for a, b in combinations(range(BATCH), 2)
            if worths[a] != worths[b]
        ]
        winners_P, losers_P = torch.tensor(pairs).T
        ids_BT, real_BT, _ = _batch(tokenizer, conversations)
        scores_B = scorer(ids_BT, real_BT)
        loss = preference_loss_sum(scores_B, winners_P, losers_P) / len(pairs)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    std, mean = torch.std_mean(scores_B.detach())
    scorer.score_mean, scorer.score_std = float(mean), float(std)


def _steps(model: nn.Module, count: int, *, learning_rate: float) -> Iterator[torch.optim.AdamW]:
    """An optimizer, once per step: warm-up over a tenth, then linear decay; gradients cleared."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    for step in range(count):
        factor = min(1.0, (step + 1) / (0.1 * count), 1.05 - step / count)
        optimizer.param_groups[0]["lr"] = learning_rate * factor
        optimizer.zero_grad(set_to_none=True)
        yield optimizer


def _like_lengths(draw: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Batches without end, each of replies of like length: a third less padding to train on."""
    while True:
        drawn = sorted((draw_conversation(draw) for _ in range(4 * BATCH)), key=lambda c: len(c[1]))
        starts = range(0, len(drawn), BATCH)
        for start in draw.sample(starts, len(starts)):
            yield drawn[start : start + BATCH]


def _batch(
    tokenizer: MossTokenizer, conversations: list[tuple[str, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (B, T), right padded; real tokens (B, T); tokens of the reply (B, T)."""
    prompts = [encode_prompt(tokenizer, request) for request, _ in conversations]
    replies = [encode_reply(tokenizer, reply) for _, reply in conversations]
    width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    ids = torch.full((len(prompts), width), tokenizer.pad_id)
    real, answered = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros_like(ids)
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        end = len(prompt) + len(reply)
        ids[row, :end] = torch.tensor(prompt + reply)
        real[row, :end], answered[row, len(prompt) : end] = True, 1
    return ids, real, answered
