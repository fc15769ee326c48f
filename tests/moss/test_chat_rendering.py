"""Token ids and loss masks of conversations, in both control styles."""

import pytest
from hypothesis import given, settings
from tokenizers import Tokenizer

from moss.chat import Command, Conversation, ToolResult, Turn, render_text
from moss.chat_rendering import ChatRenderer
from moss.errors import ChatFormatError
from moss.meta_instruction import MetaInstruction
from moss.tokenizer import MossTokenizer, add_controls, train_bpe
from tests.moss.test_chat import conversations

_TEXTS = ["What is 12+7? This is a calculation. The result is 19. None Calculate"] * 20
_BASE = train_bpe(_TEXTS, vocab_size=280).to_str()
TOKENIZERS: dict[str, MossTokenizer] = {
    style: add_controls(Tokenizer.from_str(_BASE), style=style) for style in ("special", "text")
}
CALL = Command("Calculate", "12+7")
TOOL_TURN = Turn(
    human="What is 12+7?",
    inner_thoughts="This is a calculation.",
    commands=(CALL,),
    results=(ToolResult(CALL, "'19'"),),
    moss="The result is 19.",
    quality=100,
)
CONVERSATION = Conversation(
    MetaInstruction("tiny", True, frozenset({"calculator"})), (Turn("Hi.", "Hello."), TOOL_TURN)
)


def loss_text(renderer: ChatRenderer, conversation: Conversation) -> str:
    rendered = renderer.render(conversation)
    kept = [i for i, flag in zip(rendered.ids, rendered.loss_mask, strict=True) if flag]
    return renderer.tokenizer.decode(kept)


@pytest.mark.parametrize("style", ["special", "text"])
def test_loss_falls_on_the_assistants_own_words_only(style: str) -> None:
    text = loss_text(ChatRenderer(TOKENIZERS[style]), CONVERSATION)
    for wanted in ("Hello.", "This is a calculation.", 'Calculate("12+7")', "The result is 19."):
        assert wanted in text
    for unwanted in ("Hi.", "What is", "'19'", "quality", "Thoughts on", "<|"):
        assert unwanted not in text
    assert text.count("<eom>") == 2


@pytest.mark.parametrize("style", ["special", "text"])
def test_the_released_policy_leaves_out_meta_and_results_body_only(style: str) -> None:
    text = loss_text(ChatRenderer(TOKENIZERS[style], loss="moss"), CONVERSATION)
    assert "What is 12+7?" in text
    assert "<|Results|>:" in text
    assert "=> '19'" not in text
    assert "Thoughts on" not in text
    assert "quality" not in text


@pytest.mark.parametrize("style", ["special", "text"])
@given(conversation=conversations)
@settings(max_examples=60)
def test_decoded_ids_are_the_rendered_text(style: str, conversation: Conversation) -> None:
    rendered = ChatRenderer(TOKENIZERS[style]).render(conversation)
    assert TOKENIZERS[style].decode(rendered.ids) == render_text(conversation)
    assert len(rendered.ids) == len(rendered.loss_mask)


@given(conversation=conversations)
@settings(max_examples=60)
def test_control_tokens_come_from_structure_alone(conversation: Conversation) -> None:
    tokenizer = TOKENIZERS["special"]
    rendered = ChatRenderer(tokenizer).render(conversation)
    end = tokenizer.controls["<eom>\n"]
    header = tokenizer.controls["<|MOSS|>:"]
    assert rendered.ids.count(end) == rendered.ids.count(header) == len(conversation.turns)


@pytest.mark.parametrize("style", ["special", "text"])
def test_a_prompt_is_a_prefix_of_the_rendered_turn(style: str) -> None:
    renderer = ChatRenderer(TOKENIZERS[style])
    whole = renderer.render(CONVERSATION).ids
    for section, quality in (("inner_thoughts", None), ("commands", None), ("moss", 100)):
        prompt = renderer.prompt_ids(CONVERSATION, section, quality)  # type: ignore[arg-type]
        assert whole[: len(prompt)] == prompt


@pytest.mark.parametrize("style", ["special", "text"])
def test_a_section_the_model_wrote_decodes_to_its_text(style: str) -> None:
    renderer = ChatRenderer(TOKENIZERS[style])
    whole = renderer.render(CONVERSATION).ids
    start = len(renderer.prompt_ids(CONVERSATION, "moss"))
    assert renderer.decode_section(whole[start:], "moss") == TOOL_TURN.moss
    start = len(renderer.prompt_ids(CONVERSATION, "commands"))
    assert renderer.decode_section(whole[start:], "commands") == 'Calculate("12+7")'


def test_a_tag_before_another_section_is_refused() -> None:
    with pytest.raises(ChatFormatError, match="before the reply"):
        ChatRenderer(TOKENIZERS["special"]).prompt_ids(CONVERSATION, "commands", 100)
