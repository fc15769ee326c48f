"""What a serving benchmark starts from: a policy with random weights that writes plain letters."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from moss.config.model import ModelConfig
from moss.config.serve import EngineConfig, ServeChatConfig, TurnConfig
from moss.tokenizer import MossTokenizer

MODEL_NAME: Final = "benchmark"
QUESTION: Final = "What do people think of when they hear of the sea, and why do they go there?"
NUM_TOKENS: Final = 64
_MODEL = ModelConfig(
    hidden_size=256,
    num_layers=6,
    num_heads=4,
    intermediate_size=704,
    max_positions=1024,
    initializer_std=0.1,
)
_VOCAB_SIZE = 320
_TEXTS = [
    "People go to the sea for its wide and quiet air, and come home with sand in their shoes.",
    "What do they hear there? The wind, the waves, and now and then a gull who wants their bread.",
] * 20


def make_checkpoint(folder: Path) -> None:
    """A policy of 5 million parameters and its tokenizer.

    Each token it writes is a whole character at least: a server that holds back half a character
    would seem slow at its first token.
    """
    import torch

    from moss.models import build_policy_for

    tokenizer = make_tokenizer()
    tokenizer.save(folder)
    model = build_policy_for(tokenizer, _MODEL, seed=0)
    letters = [
        number for number in range(tokenizer.padded_vocab_size) if _is_plain(tokenizer, number)
    ]
    weights = model.get_output_embeddings().weight
    with torch.no_grad():
        kept = weights[letters].clone()
        weights.zero_()
        weights[letters] = kept
    model.save_pretrained(folder)


def make_tokenizer() -> MossTokenizer:
    """The same each time."""
    from moss.tokenizer import add_controls, train_bpe

    return add_controls(train_bpe(_TEXTS, vocab_size=_VOCAB_SIZE), style="special")


def _is_plain(tokenizer: MossTokenizer, number: int) -> bool:
    text = tokenizer.decode([number]).strip()
    return text.isascii() and text.isalpha()


def service_config(workspace: Path) -> ServeChatConfig:
    """Our service on one vLLM engine of one thread, as the rival is."""
    return ServeChatConfig.model_validate(
        {
            "workspace": str(workspace),
            "meta_version": "tiny",
            "turn": TurnConfig(temperature=0, max_reply_tokens=NUM_TOKENS, quality=100),
            "http": {"port": 0, "max_ongoing": 64},
            "tools": {"enabled": ["calculator"]},
            "default_tools": ["calculator"],
            "engine": EngineConfig(kind="vllm", num_cpus=0.2, kv_cache_gib=0.5, max_num_seqs=32),
            "tool_num_cpus": 0.05,
        }
    )


def prompt_ids(folder: Path) -> list[int]:
    """What our service gives the engine for `QUESTION` with no tool on."""
    from moss.chat import Conversation, Turn
    from moss.chat_rendering import ChatRenderer
    from moss.meta_instruction import MetaInstruction

    meta = MetaInstruction("tiny", False, frozenset())
    conversation = Conversation(meta, (Turn(human=QUESTION, moss=""),))
    return ChatRenderer(MossTokenizer.load(str(folder))).prompt_ids(conversation, "moss", 100)
