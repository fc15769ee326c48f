"""Configuration of the tools (paper section 8)."""

from __future__ import annotations

from pydantic import Field

from moss.config.base import Config
from moss.config.web import WebConfig
from moss.types import TOOL_NAMES, ToolName


class CalculatorConfig(Config):
    """Limits of the calculator (paper section 8.2)."""

    timeout_s: float = Field(1.0, gt=0, le=30)
    """Wall time of one calculation."""
    memory_bytes: int = Field(64 << 20, ge=8 << 20)
    num_workers: int = Field(2, ge=1, le=32)
    """Sandboxed interpreters; more calls than this wait for a free one."""
    max_expression_chars: int = Field(400, ge=1, le=10_000)
    max_result_chars: int = Field(80, ge=8, le=4_096)

    @property
    def call_timeout_s(self) -> float:
        """Longest a caller waits: the calculation, and ten seconds for a free worker."""
        return self.timeout_s + 10.0


class SolverConfig(Config):
    """Limits of the equation solver (paper section 8.2)."""

    timeout_s: float = Field(3.0, gt=0, le=60)
    """Wall time of one solution, counted from the fork."""
    memory_bytes: int = Field(1 << 30, ge=256 << 20)
    """Address space of one solution, the libraries (about 0.4 GiB) included."""
    num_workers: int = Field(2, ge=1, le=32)
    """Solutions at once; more calls than this wait for a free place, so that none is slowed past
    its wall time by the others."""
    max_equation_chars: int = Field(300, ge=1, le=4_096)
    max_result_chars: int = Field(400, ge=8, le=4_096)
    start_timeout_s: float = Field(120.0, gt=0)
    """How long the first call may wait for SymPy to load."""

    @property
    def call_timeout_s(self) -> float:
        """Longest a caller waits: loading, the solution, and two seconds to end it."""
        return self.start_timeout_s + self.timeout_s + 2.0


class SearchConfig(Config):
    """The local search index and its summaries (paper section 8.2)."""

    corpus: str | None = None
    """JSONL of `id, language, title, text`; None is the bundled corpus."""
    top_k: int = Field(3, ge=1, le=20)
    """Pages per query (paper section 8.2: top 3)."""
    max_sentences: int = Field(3, ge=1, le=20)
    """TextRank sentences per page."""
    max_summary_chars: int = Field(400, ge=20, le=4_000)
    """Characters per page; the released MOSS backend cuts there too."""
    timeout_s: float = Field(5.0, gt=0, le=60)
    web: WebConfig | None = None
    """Search the web through a provider instead of the corpus."""

    @property
    def call_timeout_s(self) -> float:
        """Longest a caller waits."""
        return self.timeout_s + (self.web.call_timeout_s if self.web else 0.0)


class TextToImageConfig(Config):
    """The text-to-image pipeline (paper section 8.2: Stable Diffusion)."""

    pipeline: str | None = None
    """Folder of a diffusers pipeline; None builds a tiny one with random weights."""
    image_folder: str | None = None
    """Where pictures are stored; None is `moss-images` in the system's temporary folder (the chat
    service puts them beside its workspace's runs)."""
    num_steps: int = Field(2, ge=1, le=200)
    image_size: int = Field(64, ge=16, le=2_048, multiple_of=8)
    """Pixels per side."""
    timeout_s: float = Field(120.0, gt=0)
    """Wall time of one image, the first one's loading of the weights included."""
    num_threads: int = Field(1, ge=1)
    device: str = "cpu"

    @property
    def call_timeout_s(self) -> float:
        """Longest a caller waits."""
        return self.timeout_s


class ToolsConfig(Config):
    """Which tools exist, and their limits."""

    enabled: tuple[ToolName, ...] = TOOL_NAMES
    calculator: CalculatorConfig = CalculatorConfig()
    equation_solver: SolverConfig = SolverConfig()
    web_search: SearchConfig = SearchConfig()
    text_to_image: TextToImageConfig = TextToImageConfig()
    max_calls: int = Field(4, ge=1, le=16)
    """Calls of one turn that run; the rest is dropped. The released MOSS backend runs four."""

    def call_timeout_s(self, name: ToolName) -> float:
        """Longest a caller waits for one call of a tool."""
        return {
            "calculator": self.calculator.call_timeout_s,
            "equation_solver": self.equation_solver.call_timeout_s,
            "web_search": self.web_search.call_timeout_s,
            "text_to_image": self.text_to_image.call_timeout_s,
        }[name]
