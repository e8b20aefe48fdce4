"""Rules for files in the home directory of every kernel."""

from __future__ import annotations

import pytest

from backendai.core.dotfiles import (
    MOST_BYTES,
    MOST_FILES,
    check_permission,
    in_force,
    path_at_home,
    with_changed,
    with_new,
)
from backendai.core.errors import DotfileNotMade, DotfileTaken, ObjectNotFound
from backendai.core.kernel import Dotfile


def dotfile(path: str, data: str = "x") -> Dotfile:
    return Dotfile(path=path, permission="644", data=data)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (".bashrc", ".bashrc"),
        ("./.config//app/x", ".config/app/x"),
        ("/home/work/.vimrc", ".vimrc"),
        ("a/../b", "b"),
        (".ssh/config", ".ssh/config"),
    ],
)
def test_paths(given: str, path: str) -> None:
    assert path_at_home(given) == path


@pytest.mark.parametrize(
    "given",
    [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "/home/work/../x",
        "/home/work",
        ".ssh",
        ".ssh/",
        ".ssh/authorized_keys",
        "./.ssh/./authorized_keys/below",
        "id_container",
        ".bootstrap.sh",
        ".config",
        "x" * 256,
        "x/" * 600,
    ],
)
def test_paths_that_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"must be|reserved|too long"):
        path_at_home(given)


def test_permissions() -> None:
    assert check_permission("755") == "755"
    for text in ("", "75", "0755", "758", "rwx", "75\n"):
        with pytest.raises(ValueError, match="octal"):
            check_permission(text)


def test_how_many_and_how_much() -> None:
    files = [dotfile(f".f{n}") for n in range(MOST_FILES - 1)]
    files = with_new(files, dotfile(".last"))
    with pytest.raises(DotfileNotMade, match="100"):
        with_new(files, dotfile(".more"))
    with pytest.raises(DotfileTaken):
        with_new(files, dotfile(".last"))
    half = "y" * (MOST_BYTES // 2)
    with pytest.raises(DotfileNotMade, match="bytes"):
        with_new([dotfile(".one", half)], dotfile(".two", half))
    with pytest.raises(DotfileNotMade, match="bytes"):
        with_changed([dotfile(".one", half), dotfile(".two")], dotfile(".two", half))
    with pytest.raises(ObjectNotFound):
        with_changed([dotfile(".one")], dotfile(".two"))
    assert with_changed([dotfile("a"), dotfile("b")], dotfile("a", "z"))[0].data == "z"


def test_a_path_is_a_file_or_a_directory() -> None:
    with pytest.raises(DotfileNotMade, match="directory"):
        with_new([dotfile(".app")], dotfile(".app/settings"))
    with pytest.raises(DotfileNotMade, match="directory"):
        with_new([dotfile(".app/settings")], dotfile(".app"))


def test_the_nearest_holder_goes_first() -> None:
    own = [dotfile(".a", "own"), dotfile(".dir/x", "own")]
    project = [dotfile(".a", "project"), dotfile(".b", "project"), dotfile(".dir", "project")]
    domain = [dotfile(".b", "domain"), dotfile(".b/below", "domain"), dotfile(".c", "domain")]
    found = {each.path: each.data for each in in_force([own, project, domain])}
    assert found == {".a": "own", ".dir/x": "own", ".b": "project", ".c": "domain"}
