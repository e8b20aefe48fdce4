"""Scripts that run before the kernel does, and what is seen of those that fail."""

from __future__ import annotations

import shutil

import pytest

from backendai.core.template import with_clone
from backendai.runner.client import KernelNotReady
from tests.runner.conftest import Spawn, finish

GIT = {"repository": "./origin", "branch": None, "commit": None, "credential": None, "dest_dir": "copy"}
#: Leaves the directory, and exits.
REPOSITORY = """
git init -q -b main origin && cd origin && echo kept > file && git add file
git -c user.name=x -c user.email=x@y commit -q -m one && git branch other && git rm -q file
git -c user.name=x -c user.email=x@y commit -q -m two
exit 0
"""


async def test_a_script_that_fails_is_told_of_in_the_log(spawn: Spawn) -> None:
    client = await spawn(bootstrap_script="echo not much; exit 3")
    assert (await finish(client, "print(42)"))[1] == "42\n"
    text, _ = await client.logs(1 << 16)
    assert text.startswith("not much\nThe bootstrap script ended with exit code 3.\n")


async def test_a_script_that_does_not_end_fails_the_start(spawn: Spawn) -> None:
    with pytest.raises(KernelNotReady) as caught:
        await spawn(bootstrap_script="sleep 1000", start_timeout=0.5)
    assert caught.value.exit.reason == "start-timeout"
    assert caught.value.exit.detail.startswith("no answer within 0.5 s")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
async def test_a_repository_is_cloned_once(spawn: Spawn) -> None:
    git = {**GIT, "branch": "other", "credential": {"username": "me", "password": "$ecret 'x'"}}
    client = await spawn(bootstrap_script=with_clone(REPOSITORY, git))
    assert (await finish(client, "print(open('copy/file').read())"))[1] == "kept\n\n", await client.logs(4096)
    await finish(client, "open('copy/file', 'w').write('changed')")
    await client.restart()
    assert (await finish(client, "print(open('copy/file').read())"))[1] == "changed\n"
    assert "could not be cloned" not in (await client.logs(4096))[0]


async def test_a_repository_that_cannot_be_reached(spawn: Spawn) -> None:
    script = with_clone(None, {**GIT, "repository": "https://git.invalid/project.git"})
    client = await spawn(bootstrap_script=script)
    assert (await finish(client, "print(42)"))[1] == "42\n"
    text, _ = await client.logs(1 << 16)
    assert "https://git.invalid/project.git could not be cloned. Has this session a network?" in text
    assert "The bootstrap script ended with exit code 1." in text
