"""The offline teacher as a Ray Serve app, asked by the official client."""

from __future__ import annotations

import openai
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_ray_serve_app_answers_chat_and_streams(ray_cluster: None) -> None:
    from ray import serve as ray_serve

    from actors.ports import free_ports
    from serve.teacher_app import build_teacher_app

    port = free_ports(["teacher"])["teacher"]
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        ray_serve.run(build_teacher_app(), name="offline_teacher")
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", max_retries=0, timeout=60
        )
        question: openai.types.chat.ChatCompletionUserMessageParam = {
            "role": "user",
            "content": "What is 37*43+5?",
        }
        whole = client.chat.completions.create(model="gpt-4", messages=[question])
        stream = client.chat.completions.create(model="gpt-4", messages=[question], stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "1596" in "".join(pieces)
        assert "".join(pieces) == whole.choices[0].message.content
    finally:
        ray_serve.shutdown()
