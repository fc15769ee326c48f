"""Names and small values that every layer shares."""

from __future__ import annotations

from typing import Final, Literal, get_args

Language = Literal["en", "zh"]
ToolName = Literal["web_search", "calculator", "equation_solver", "text_to_image"]
Section = Literal["human", "inner_thoughts", "commands", "results", "moss"]

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
TOOL_NAMES: Final[tuple[ToolName, ...]] = get_args(ToolName)
SECTIONS: Final[tuple[Section, ...]] = get_args(Section)

API_NAMES: Final[dict[ToolName, str]] = {
    "web_search": "Search",
    "calculator": "Calculate",
    "equation_solver": "Solve",
    "text_to_image": "Text2Image",
}
"""What the model writes in its Commands section, by tool."""

TOOL_OF_API: Final[dict[str, ToolName]] = {api: tool for tool, api in API_NAMES.items()}

QUALITY_LEVELS: Final[tuple[int, ...]] = (0, 20, 40, 60, 80, 100)
"""Labels of the six preference buckets, ascending (paper section 7.2)."""
