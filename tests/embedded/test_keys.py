from __future__ import annotations

from pathlib import Path

import pytest

from backendai.embedded.keys import BadKeyFile, ensure_agent_keys, ensure_manager_keys, read_agent_keys


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "manager.json"
    made = ensure_manager_keys(path)
    assert ensure_manager_keys(path) == made
    assert path.stat().st_mode & 0o077 == 0
    assert [file.name for file in path.parent.iterdir()] == ["manager.json"]
    assert made.secret_key.reveal() not in repr(made)


def test_an_agent_gets_new_keys_with_a_new_manager(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    first = ensure_agent_keys(path, manager_public_key="a" * 40)
    assert ensure_agent_keys(path, manager_public_key="a" * 40) == first == read_agent_keys(path)
    assert ensure_agent_keys(path, manager_public_key="b" * 40).pair != first.pair


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"public_key": "short"}', "\x00"])
def test_a_broken_key_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manager.json"
    path.write_text(content)
    with pytest.raises(BadKeyFile, match=r"manager\.json"):
        ensure_manager_keys(path)
