"""Text-to-image through a diffusers pipeline (paper section 8.2: Stable Diffusion).

The result the model reads is `Image generated successfully.`; the picture itself is stored under
an id made from its prompt and settings, so the same call twice draws once. Prompts must be English
(the model translates); another language is drawn all the same and flagged.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moss.config.tools import TextToImageConfig, ToolsConfig
from moss.errors import ConfigError, DataError
from moss.storage import exists, join, read_bytes, write_bytes
from moss.tools.base import ToolOutput
from moss.types import ToolName

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SUCCESS: Final = "Image generated successfully."
NOT_ENGLISH: Final = "prompt_not_english"
_MAX_PROMPT_CHARS: Final = 400
_IMAGE_ID = re.compile(r"[0-9a-f]{32}")


def image_folder(config: TextToImageConfig) -> str:
    """Folder of the stored pictures."""
    return config.image_folder or join(tempfile.gettempdir(), "moss-images")


def read_image(folder: str, image_id: str) -> bytes | None:
    """PNG bytes of a stored image, or None if there is none.

    Raises:
        DataError: the id is not one this module gives; it never becomes part of a path.
    """
    if not _IMAGE_ID.fullmatch(image_id):
        raise DataError(f"{image_id[:40]!r} is not an image id (32 hexadecimal digits)")
    path = join(folder, f"{image_id}.png")
    return read_bytes(path) if exists(path) else None


class TextToImage:
    """Draws pictures; the pipeline loads at the first call.

    Raises (constructor):
        ConfigError: the pipeline folder does not exist.
    """

    name: ToolName = "text_to_image"

    def __init__(self, config: TextToImageConfig) -> None:
        if config.pipeline is not None and not Path(config.pipeline, "model_index.json").is_file():
            raise ConfigError(
                f"text_to_image.pipeline {config.pipeline!r} is no diffusers pipeline folder "
                "(model_index.json is missing); give another one, or null for tiny random weights"
            )
        self.config = config
        self.timeout_s = config.call_timeout_s
        self._pipeline: DiffusionPipeline | None = None
        self._lock = threading.Lock()
        self._stopped: set[str] = set()

    async def call(self, argument: str) -> ToolOutput:
        """Draw the prompt `argument` and store it; a call given up ends at its next step."""
        prompt = " ".join(argument.split())[:_MAX_PROMPT_CHARS]
        if not prompt:
            return ToolOutput(ok=False, layout="plain", reason="the prompt is empty")
        image_id = self._image_id(prompt)
        path = join(image_folder(self.config), f"{image_id}.png")
        flags = () if prompt.isascii() else (NOT_ENGLISH,)
        if not exists(path):
            self._stopped.discard(image_id)
            try:
                data = await asyncio.to_thread(self._draw, prompt, image_id)
            except asyncio.CancelledError:
                self._stopped.add(image_id)
                raise
            await asyncio.to_thread(write_bytes, path, data)
        return ToolOutput(ok=True, layout="plain", text=SUCCESS, images=(image_id,), flags=flags)

    def _image_id(self, prompt: str) -> str:
        settings = (self.config.pipeline, self.config.num_steps, self.config.image_size, prompt)
        return hashlib.sha256(repr(settings).encode()).hexdigest()[:32]

    def _draw(self, prompt: str, image_id: str) -> bytes:
        """PNG bytes; the noise is seeded by the id, so a prompt has one picture."""
        import torch

        with self._lock:
            pipeline = self._loaded_pipeline()

            def stop_when_given_up(
                pipe: DiffusionPipeline, _step: int, _timestep: int, tensors: dict[str, object]
            ) -> dict[str, object]:
                pipe._interrupt = image_id in self._stopped
                return tensors

            images = pipeline(
                prompt,
                num_inference_steps=self.config.num_steps,
                height=self.config.image_size,
                width=self.config.image_size,
                generator=torch.Generator().manual_seed(int(image_id[:12], 16)),
                callback_on_step_end=stop_when_given_up,
            ).images
        buffer = io.BytesIO()
        images[0].save(buffer, format="PNG")
        return buffer.getvalue()

    def _loaded_pipeline(self) -> DiffusionPipeline:
        if self._pipeline is None:
            if self.config.pipeline is None:
                from moss.tools.tiny_diffusion import build_tiny_pipeline

                self._pipeline = build_tiny_pipeline()
            else:
                from diffusers import DiffusionPipeline

                self._pipeline = DiffusionPipeline.from_pretrained(
                    self.config.pipeline, local_files_only=True
                )
            self._pipeline = self._pipeline.to(self.config.device)
        return self._pipeline

    async def close(self) -> None:
        """Drop the pipeline."""
        with self._lock:
            self._pipeline = None


def build(config: ToolsConfig) -> TextToImage:
    """Build the text-to-image tool of a tools configuration."""
    return TextToImage(config.text_to_image)
