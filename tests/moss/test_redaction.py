import pytest

from moss.redaction import find_secret, redact


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEACHER_API_KEY", "sk-0123456789abcdef")
    return "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("note: uses sk-0123456789abcdef", "TEACHER_API_KEY"),
        ("base_url: https://user:hunter2@host/v1", "URL with a user and password"),
        ("teacher:\n  api_key: abc", "'api_key'"),
        ("- password: abc", "'password'"),
    ],
)
def test_secrets_are_found_and_not_repeated(text: str, said: str, key: str) -> None:
    found = find_secret(text)
    assert found is not None
    assert said in found
    assert key not in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "text",
    [
        "api_key_env: TEACHER_API_KEY",
        "api_key: null",
        "api_key: ''",
        "api_key:\n  file: /run/secrets/key",
        "max_tokens: 30\npad_token: <pad>",
        "base_url: http://localhost:8000/v1",
    ],
)
def test_names_of_secrets_are_not_secrets(text: str) -> None:
    assert find_secret(text) is None
    assert redact(text) == text


def test_redaction_takes_out_the_secret_alone(key: str) -> None:
    assert redact(f'{{"a": "{key}", "b": 1}}') == '{"a": "[redacted]", "b": 1}'
