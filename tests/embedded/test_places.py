from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backendai.embedded import places
from backendai.embedded.places import PlaceTaken, PlaceUnfit, claim_directory, open_runtime_directory


def test_a_directory_has_one_holder_whom_the_second_can_name(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from backendai.embedded import places
from backendai.embedded.places import claim_directory
with claim_directory(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(PlaceTaken, match=f"in use by process {holder.pid}$"), claim_directory(tmp_path):
            pass
        holder.kill()
    with claim_directory(tmp_path):
        pass


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(PlaceUnfit, match="file/data cannot be used"),
        claim_directory(tmp_path / "file" / "data"),
    ):
        pass


def test_the_runtime_directory_is_short_stable_and_gone_afterwards(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-rather-long-name"] * 8)
    with open_runtime_directory(deep) as first:
        assert len(str(first)) < 80
        (first / "left").touch()
    assert not first.exists()
    with open_runtime_directory(deep) as second, open_runtime_directory(tmp_path) as other:
        assert second == first
        assert other != first


def test_a_runtime_base_that_others_may_write_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "backendai"
    base.mkdir()
    base.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(PlaceUnfit, match="belongs to somebody else"), open_runtime_directory(tmp_path):
        pass


def test_what_the_dead_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def base() -> Path:
        tmp_path.joinpath("base").mkdir(exist_ok=True)
        return tmp_path / "base"

    monkeypatch.setattr(places, "_runtime_base", base)
    left, live = base() / "left", base() / "live"
    for place in (left, live):
        place.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(live / "socket"))
        with open_runtime_directory(tmp_path / "one") as one:
            assert not left.exists()
            with open_runtime_directory(tmp_path / "two"):
                assert one.exists()
                assert live.exists()
    with open_runtime_directory(tmp_path / "two"):
        assert not live.exists()
