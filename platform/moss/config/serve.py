"""Configuration of the chat service (paper sections 6 and 8)."""

from __future__ import annotations

import ipaddress
from typing import Literal, Self

from pydantic import Field, model_validator

from moss.config.base import Config, StageConfig
from moss.config.scaling import ScalingConfig
from moss.config.serve_logs import LogConfig
from moss.config.tools import ToolsConfig
from moss.types import QUALITY_LEVELS, ToolName


class TurnConfig(Config):
    """How one turn is walked: model, tools, model."""

    quality: int | None = 100
    """Tag the reply is conditioned on; None for models that were never tagged (SFT, PPO)."""
    enforce_switches: bool = True
    """Rewrite sections that call disabled tools. Off, the sections stay as the model wrote them,
    to measure it; a disabled tool does not run either way."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Of the reply; thoughts and commands are always the likeliest ones."""
    top_p: float = Field(0.8, gt=0, le=1)
    max_thought_tokens: int = Field(128, ge=1)
    max_command_tokens: int = Field(128, ge=1)
    max_reply_tokens: int = Field(512, ge=1)
    max_calls: int = Field(4, ge=1, le=16)
    """Tool calls that run in one turn; the released MOSS backend runs four."""
    seed: int = 0

    @model_validator(mode="after")
    def quality_is_a_known_level(self) -> Self:
        """A tag outside the six levels was never trained."""
        if self.quality is not None and self.quality not in QUALITY_LEVELS:
            levels = ", ".join(map(str, QUALITY_LEVELS))
            raise ValueError(f"quality={self.quality} is not one of {levels}, or null for no tag")
        return self


class EngineConfig(Config):
    """The engine that generates tokens."""

    kind: Literal["transformers", "vllm"] = "transformers"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_threads: int = Field(1, ge=1)
    num_cpus: float = Field(0.5, gt=0)
    """CPUs that Ray reserves for the replica."""
    num_gpus: float = Field(0.0, ge=0)
    scaling: ScalingConfig = ScalingConfig()
    """Replicas of each model."""
    max_num_seqs: int = Field(32, ge=1)
    """Sequences that are decoded at once."""
    kv_cache_gib: float = Field(0.5, gt=0)
    gpu_memory_share: float = Field(0.85, gt=0, le=1)
    start_timeout_s: float = Field(600.0, gt=0)
    request_timeout_s: float = Field(120.0, gt=0)
    """Longest wait for the next token of a running request."""


class HttpConfig(Config):
    """The public edge."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    """0 takes a free port."""
    api_key_file: str | None = None
    """YAML of hashes, scopes and limits of keys (`python -m jobs.make_api_key` adds one); the
    replica that answers HTTP reads it again when it changes. Keys in `MOSS_API_KEYS` count too,
    without limits."""
    max_body_bytes: int = Field(1 << 20, ge=1_024)
    read_timeout_s: float = Field(30.0, gt=0)
    """How long a request body may take to arrive."""
    write_timeout_s: float = Field(30.0, gt=0)
    """How long a client may leave a piece of its answer unread before it is cut off."""
    max_messages: int = Field(200, ge=1)
    max_message_chars: int = Field(20_000, ge=1)
    max_ongoing: int = Field(32, ge=1)
    """Requests that run at once; more get 429 with Retry-After."""
    retry_after_s: int = Field(2, ge=1)
    allow_open_network: bool = False
    """Serve beyond loopback without API keys."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names by which a service on loopback without keys may be asked. A page of another
    site that lets its own name point here (DNS rebinding) would else pass as this one's."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ServedModelConfig(Config):
    """A model that is served beside the first."""

    model: str
    """Run whose `checkpoint/` is served, or a path to such a folder."""
    meta_version: str | None = None
    """Meta-instruction it was trained with; null for that of the first model."""
    quality: int | None = None
    """Tag its replies are conditioned on; null for a model that was never tagged (SFT, PPO)."""


class ServeChatConfig(StageConfig):
    """The chat service: models, tools, the edge and the store."""

    run_id: str = "chat"
    model: str = "MOSS-PAT"
    """Run whose `checkpoint/` is served, or a path to such a folder."""
    more_models: tuple[ServedModelConfig, ...] = ()
    """Models beside it, each on an engine of its own with the settings of `engine`."""
    alias: str | None = Field(None, min_length=1, max_length=100)
    """Name under which clients get the released model; requests without a name get it too."""
    release_file: str | None = None
    """JSON file of what is released (`python -m jobs.promote` writes it); read again when it
    changes. Null: `model` is released."""
    meta_version: str = "moss-003"
    """Meta-instruction the model was trained with."""
    default_tools: tuple[ToolName, ...] = ("web_search", "calculator", "equation_solver")
    """Switches that are on where a request says nothing."""
    default_inner_thoughts: bool = True
    app_name: str = "moss-chat"
    engine: EngineConfig = EngineConfig()
    tools: ToolsConfig = ToolsConfig()
    tool_num_cpus: float = Field(0.1, ge=0)
    """CPUs that Ray reserves for each tool's replica."""
    edge_num_cpus: float = Field(0.1, ge=0)
    """Likewise, for the replica that answers HTTP."""
    edge_scaling: ScalingConfig = ScalingConfig()
    """Replicas that answer HTTP. Several need Postgres, and each counts the limits of API keys, and
    `http.max_ongoing`, for itself."""
    turn: TurnConfig = TurnConfig()
    http: HttpConfig = HttpConfig()
    logs: LogConfig = LogConfig()
    database: str | None = None
    """SQLite file, or `postgresql://user@host/name` (its password in `PGPASSWORD` where the job
    starts, or in the replica's `~/.pgpass`); None is `chat-store/chat.sqlite` in the workspace,
    which outlives the run."""
    retention_days: float | None = Field(None, gt=0)
    """Delete conversations that nobody added to for so long, once a day; None keeps them until
    their users delete them."""
    start_timeout_s: float = Field(900.0, gt=0)

    @model_validator(mode="after")
    def default_tools_are_built(self) -> Self:
        """A switch that is on needs its tool."""
        missing = sorted(set(self.default_tools) - set(self.tools.enabled))
        if missing:
            raise ValueError(
                f"default_tools has {', '.join(missing)}, which tools.enabled lacks; add it there"
            )
        return self

    @model_validator(mode="after")
    def several_edges_share_a_database(self) -> Self:
        """Replicas on different nodes cannot share a SQLite file."""
        if self.edge_scaling.max_replicas > 1 and not (self.database or "").startswith("postgres"):
            raise ValueError(
                f"edge_scaling.max_replicas={self.edge_scaling.max_replicas} with SQLite, whose "
                "file only one node can use; set database to postgresql://user@host/name, or 1"
            )
        return self

    @model_validator(mode="after")
    def edges_scale_before_they_refuse(self) -> Self:
        """A replica that refuses requests first never sees the load that would add another."""
        target = self.edge_scaling.target_ongoing_requests
        if self.edge_scaling.is_automatic and target >= self.http.max_ongoing:
            raise ValueError(
                f"edge_scaling.target_ongoing_requests={target:g} is not reached, since "
                f"http.max_ongoing={self.http.max_ongoing} refuses more; set it below that"
            )
        return self

    @property
    def num_cpus(self) -> float:
        """CPUs that all replicas reserve together when the service starts."""
        tools = self.tool_num_cpus * len(self.tools.enabled)
        edges = self.edge_scaling.min_replicas * self.edge_num_cpus
        return self.num_engines * self.engine.num_cpus + edges + tools

    @property
    def num_gpus(self) -> float:
        """GPUs that all replicas reserve together when the service starts."""
        return self.num_engines * self.engine.num_gpus

    @property
    def num_engines(self) -> int:
        """Engines when the service starts, of all models."""
        return (1 + len(self.more_models)) * self.engine.scaling.min_replicas
