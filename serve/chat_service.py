"""What the routes call: requests become turns, turns are admitted, walked and kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from moss.chat import Conversation, Turn
from moss.config.api_keys import ApiKeyConfig
from moss.config.serve import ServeChatConfig, TurnConfig
from moss.meta_instruction import MetaInstruction
from moss.tools.base import Tool
from moss.types import API_NAMES, QUALITY_LEVELS, TOOL_NAMES, ToolName
from serve.chat_model import generate_one_token
from serve.conversation import TurnEvent, TurnFinished, TurnOutcome, walk_turn
from serve.engines import CountedEngine, TokenCount
from serve.errors import ApiError
from serve.keeping import Kept, keep_turn, stored_turn
from serve.model_router import ModelRoute, ModelRouter
from serve.request_record import current_record
from serve.schemas import ChatRequest, Message, StoreOptions
from serve.store import Store
from serve.turn_record import note_event

_READY_FOR_S = 10.0
_READY_TIMEOUT_S = 20.0
_MAX_ROLES = 4
"""Named of messages that do not alternate."""


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """A request, checked and ready to walk."""

    model: ModelRoute
    """What answers it."""
    conversation: Conversation
    """History; its meta-instruction carries the effective switches."""
    user_text: str
    config: TurnConfig
    stops: tuple[str, ...]
    """Texts before which the reply ends."""


class ChatService:
    """One replica's service logic; no HTTP in here."""

    def __init__(
        self,
        *,
        models: ModelRouter,
        tools: Mapping[ToolName, Tool],
        store: Store,
        config: ServeChatConfig,
    ) -> None:
        self.store = store
        self.models = models
        self.config = config
        self.tools = tools
        self._num_ongoing = 0
        self._ready_at = float("-inf")
        self._proving = asyncio.Lock()

    def offered_tools(self, key: ApiKeyConfig | None) -> list[dict[str, object]]:
        """Tools that requests may have on, within the scope of a key if one is given."""
        defaults = self.config.default_tools
        return [
            {"name": name, "api": API_NAMES[name], "default": name in defaults}
            for name in self.tools
            if key is None or key.allows_tool(name)
        ]

    def prepare(self, request: ChatRequest, owner: str, key: ApiKeyConfig) -> PreparedTurn:
        """Check a request against the service and the key's scope, and rebuild its history.

        Raises:
            ApiError: 400, 403 or 404, naming the field.
            DataError: no such stored conversation.
            StoreUnavailableError: the turn is to be kept, and the database does not answer.
        """
        model = self.models.find(request.model, owner, key)
        if len(request.messages) > self.config.http.max_messages:
            raise ApiError(
                400, f"expected at most {self.config.http.max_messages} messages, but "
                f"{len(request.messages)} came", code="too_many_messages", param="messages",
            )  # fmt: skip
        for message in request.messages:
            check_text(message.text, self.config.http.max_message_chars, "messages")
        meta = self._meta(request, key, model)
        turns, user_text = turns_of(request.messages, self.config.http.max_message_chars)
        stored = request.moss.store
        if stored is not None:
            history = self._stored_history(stored, owner)
            turns = turns if history is None else history
        turn = self._turn_config(request, model)
        return PreparedTurn(model, Conversation(meta, turns), user_text, turn, request.stop)

    def _stored_history(self, stored: StoreOptions, owner: str) -> tuple[Turn, ...] | None:
        """Earlier turns of a stored conversation, None for a new one.

        What could not be kept later is refused here, before tokens are spent on it.
        """
        if stored.conversation_id is not None:
            rows = self.store.turns(owner, stored.conversation_id, before=stored.replace_turn)
            return tuple(Conversation.from_json(row.sections).turns[0] for row in rows)
        if stored.replace_turn is not None:
            raise ApiError(
                400, "replace_turn needs the conversation_id of its turn",
                code="missing_conversation", param="moss.store.replace_turn",
            )  # fmt: skip
        self.store.check()
        return None

    def _meta(self, request: ChatRequest, key: ApiKeyConfig, model: ModelRoute) -> MetaInstruction:
        """Effective switches.

        A tool is on if the service has it, the key's scope has it, and the request has it on: by
        name or, where it says nothing, by the service's default, and not by `tool_choice: none` or
        `max_tool_rounds: 0`.
        """
        unknown = sorted(set(request.moss.tools) - set(TOOL_NAMES))
        if unknown:
            raise ApiError(
                400, f"unknown tool {unknown[0][:40]!r}; tools are {', '.join(TOOL_NAMES)}",
                code="unknown_tool", param="moss.tools",
            )  # fmt: skip
        for name in TOOL_NAMES:
            if request.moss.tools.get(name) and not key.allows_tool(name):
                raise ApiError(
                    403, f"this API key is not for the tool {name}",
                    code="tool_not_allowed", param="moss.tools",
                )  # fmt: skip
        switches = {name: name in self.config.default_tools for name in self.tools}
        switches |= {name: request.moss.tools.get(name, on) for name, on in switches.items()}
        enabled = frozenset(name for name, on in switches.items() if on and key.allows_tool(name))
        if not request.allows_tools:
            enabled = frozenset()
        thoughts = request.moss.inner_thoughts
        if thoughts is None:
            # Trained conversations have thoughts where tools are on, and nowhere else.
            thoughts = self.config.default_inner_thoughts and bool(enabled)
        return MetaInstruction(model.meta_version, thoughts, enabled)

    def _turn_config(self, request: ChatRequest, model: ModelRoute) -> TurnConfig:
        limit = request.max_completion_tokens or request.max_tokens
        default = self.config.turn.model_copy(update={"quality": model.quality})
        changes: dict[str, object] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "max_reply_tokens": min(limit, default.max_reply_tokens) if limit else None,
        }
        quality = request.moss.quality
        if quality is not None:
            if quality not in QUALITY_LEVELS or default.quality is None:
                levels = ", ".join(map(str, QUALITY_LEVELS)) if default.quality else "none"
                raise ApiError(
                    400, f"quality {quality} is not offered by this model; levels: {levels}",
                    code="invalid_quality", param="moss.quality",
                )  # fmt: skip
            changes["quality"] = quality
        given = {name: value for name, value in changes.items() if value is not None}
        return default.model_copy(update=given)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in for the time of the block.

        Raises:
            ApiError: 429 with Retry-After, too many run.
        """
        if self._num_ongoing >= self.config.http.max_ongoing:
            raise ApiError(
                429, f"{self._num_ongoing} requests are running, which is the limit; try again",
                code="too_many_requests", retry_after_s=self.config.http.retry_after_s,
            )  # fmt: skip
        self._num_ongoing += 1
        try:
            yield
        finally:
            self._num_ongoing -= 1

    async def walk(self, prepared: PreparedTurn, count: TokenCount) -> AsyncGenerator[TurnEvent]:
        """Events of one turn; `count` has its tokens at any time."""
        record = current_record()
        events = walk_turn(
            CountedEngine(prepared.model.engine, count, record.id), self.tools,
            prepared.model.renderer, prepared.conversation, prepared.user_text, prepared.config,
            stops=prepared.stops,
        )  # fmt: skip
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TurnFinished):
                    self._ready_at = time.monotonic()
                note_event(record, event)
                yield event

    async def keep(
        self, request: ChatRequest, owner: str, prepared: PreparedTurn, outcome: TurnOutcome
    ) -> Kept | None:
        """Store a finished turn if the request asks for it; see `serve.keeping` for errors."""
        options = request.moss.store
        if options is None:
            return None
        served = prepared.model.served
        turn = stored_turn(
            prepared.conversation.meta, prepared.user_text, outcome, options,
            model=served.name, model_version=served.version,
        )  # fmt: skip
        return await keep_turn(self.store, owner, turn, options)

    async def check_ready(self) -> None:
        """Prove that a token was generated lately, by generating one of each model if need be.

        Raises:
            WaitTimeoutError: an engine makes none.
        """
        async with self._proving:  # a flood of askers, who need no key, costs one generation
            if time.monotonic() - self._ready_at > _READY_FOR_S:
                for route in self.models.routes:
                    await generate_one_token(route.engine, timeout_s=_READY_TIMEOUT_S)
                self._ready_at = time.monotonic()


def check_text(text: str, max_chars: int, param: str) -> None:
    """Refuse text that some database or tokenizer does not take, as PostgreSQL NUL, or too much.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        text.encode()
        is_text = "\0" not in text
    except UnicodeEncodeError:
        is_text = False
    if not is_text:
        raise ApiError(
            400, "the text holds a lone surrogate or a NUL, which no text has",
            code="invalid_unicode", param=param,
        )  # fmt: skip
    if len(text) > max_chars:
        raise ApiError(
            400, f"a text has at most {max_chars} characters, but one of {len(text)} came",
            code="message_too_long", param=param,
        )  # fmt: skip


def turns_of(messages: list[Message], max_system_chars: int) -> tuple[tuple[Turn, ...], str]:
    """Client messages as earlier turns and the text to answer.

    The format has no system section: system text stands before the first user message. Assistant
    messages become replies without tool sections, for a client's word on tools is not trusted.

    Raises:
        ApiError: 400, the last message is not the user's, the roles do not alternate, or the
            system messages have more than `max_system_chars` together.
    """
    system = "\n".join(item.text for item in messages if item.role in ("system", "developer"))
    if len(system) > max_system_chars:
        raise ApiError(
            400, f"system messages have at most {max_system_chars} characters together, but "
            f"{len(system)} came",
            code="message_too_long", param="messages",
        )  # fmt: skip
    talk = [item for item in messages if item.role in ("user", "assistant")]
    expected = ["user", "assistant"] * (len(talk) // 2 + 1)
    if len(talk) % 2 == 0 or [item.role for item in talk] != expected[: len(talk)]:
        raise ApiError(
            400, "messages must alternate between user and assistant, beginning and ending with "
            f"user, but {_roles(talk)} came", code="invalid_messages", param="messages",
        )  # fmt: skip
    texts = [item.text for item in talk]
    if not texts[-1].strip():
        raise ApiError(400, "the last message is empty", code="empty_message", param="messages")
    if system:
        texts[0] = f"{system}\n\n{texts[0]}"
    turns = tuple(Turn(human=texts[i], moss=texts[i + 1]) for i in range(0, len(texts) - 1, 2))
    return turns, texts[-1]


def _roles(talk: list[Message]) -> str:
    """The end of a talk, at which the fault often is."""
    roles = ", ".join(item.role for item in talk[-_MAX_ROLES:]) or "neither"
    return f"..., {roles}" if len(talk) > _MAX_ROLES else roles
