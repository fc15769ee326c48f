"""What a teacher session is made of."""

import pytest

from actors.session import ledger_beside


@pytest.mark.parametrize("workspace", ["/runs/tiny", "s3://bucket/road", "memory://road"])
def test_a_ledger_lies_in_the_workspace_whatever_its_scheme(workspace: str) -> None:
    assert ledger_beside(f"{workspace}/prompts") == f"{workspace}/ledgers/prompts"
