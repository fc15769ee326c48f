from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from moss.config.tools import TextToImageConfig
from moss.errors import ConfigError, DataError
from moss.tools.text_to_image import NOT_ENGLISH, TextToImage, read_image


@pytest.mark.slow
async def test_a_prompt_is_drawn_once_stored_whole_and_served_by_id(tmp_path: Path) -> None:
    folder = str(tmp_path / "images")
    tool = TextToImage(TextToImageConfig(image_folder=folder, image_size=32, num_steps=1))
    output = await tool.call("a red fox")
    assert output.body() == "Image generated successfully."
    data = read_image(folder, output.images[0])
    assert data is not None
    assert Image.open(io.BytesIO(data)).size == (32, 32)
    path = tmp_path / "images" / f"{output.images[0]}.png"
    written = path.stat().st_mtime_ns
    assert await tool.call("a  red fox ") == output
    assert path.stat().st_mtime_ns == written
    chinese = await tool.call("红狐狸")
    assert (chinese.ok, chinese.flags) == (True, (NOT_ENGLISH,))
    assert chinese.images != output.images
    other = TextToImage(TextToImageConfig(image_folder=folder + "2", image_size=32, num_steps=1))
    assert read_image(folder + "2", (await other.call("a red fox")).images[0]) == data
    await tool.close()


async def test_an_empty_prompt_gives_no_result(tmp_path: Path) -> None:
    output = await TextToImage(TextToImageConfig(image_folder=str(tmp_path))).call(" \n ")
    assert output.body() == "No result."


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_index\.json"):
        TextToImage(TextToImageConfig(pipeline=str(tmp_path)))


@pytest.mark.parametrize("image_id", ["", "../../etc/passwd", "a" * 31, "A" * 32, "0" * 32 + "/"])
def test_only_ids_name_images(tmp_path: Path, image_id: str) -> None:
    with pytest.raises(DataError, match="not an image id"):
        read_image(str(tmp_path), image_id)
