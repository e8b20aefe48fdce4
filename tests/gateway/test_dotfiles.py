"""Dotfiles over HTTP, as clients spell it."""

from __future__ import annotations

import pytest
from fakes import ADMIN, USER, Fakes
from gateway_client import SigningClient

from backendai.core.dotfiles import Holder, HolderKind
from backendai.core.kernel import Dotfile

OWN = "/user-config/dotfiles"
FILE = {"path": "/home/work/.bashrc", "permission": "640", "data": "x"}
MINE = Holder(HolderKind.KEYPAIR, USER.access_key)


async def test_a_life_of_a_file(client: SigningClient, fakes: Fakes) -> None:
    calls = fakes.keepers.dotfiles.calls
    stored = Dotfile(path=".bashrc", permission="640", data="x")
    for method, word in (("POST", "add"), ("PATCH", "replace")):
        assert (await client(method, OWN, FILE)).json() == {}
        assert calls.pop() == (word, MINE, stored)
    assert (await client("GET", OWN)).json() == [{"path": ".bashrc", "permission": "644", "data": "x"}]
    one = await client("GET", f"{OWN}?path=.bashrc")
    assert one.json() == {"path": ".bashrc", "perm": "644", "data": "x"}
    assert (await client("DELETE", f"{OWN}?path=.bashrc")).json() == {"success": True}
    assert calls.pop() == ("remove", MINE, ".bashrc")


async def test_files_of_others(client: SigningClient, fakes: Fakes) -> None:
    # The first is how clients write it.
    for name in ("onwer_access_key", "owner_access_key"):
        target = f"{OWN}?{name}={USER.access_key}"
        assert (await client("GET", target, principal=ADMIN)).status_code == 200
        assert fakes.keepers.dotfiles.calls.pop() == ("files", MINE)
        assert (await client("GET", f"{OWN}?{name}={ADMIN.access_key}")).status_code == 403
    for path, whose in (("/domain-config/dotfiles", {}), ("/group-config/dotfiles", {"group": "default"})):
        assert (await client("POST", path, {**FILE, **whose, "domain": "default"})).status_code == 401
        allowed = await client("POST", path, {**FILE, **whose, "domain": "default"}, principal=ADMIN)
        assert allowed.status_code == 200
        assert (await client("GET", f"{path}?path=.x", principal=ADMIN)).status_code == 400


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"path": ".ssh/authorized_keys"}, "path"),
        ({"path": "../x"}, "path"),
        ({"path": 3}, "path"),
        ({"path": ""}, "path"),
        ({"permission": "9"}, "permission"),
        ({"permission": None}, "permission"),
        ({"data": ""}, "data"),
        ({"data": "\0"}, "data"),
    ],
)
async def test_what_is_refused(client: SigningClient, wrong: dict[str, object], field: str) -> None:
    response = await client("POST", OWN, {**FILE, **wrong})
    assert response.status_code == 400
    if wrong != {"data": "\0"}:
        assert field in response.json()["data"]


async def test_a_bootstrap_script(client: SigningClient, fakes: Fakes) -> None:
    path = "/user-config/bootstrap-script"
    assert (await client("POST", path, {"script": " true\n"})).json() == {}
    assert fakes.keepers.dotfiles.calls.pop() == ("script", USER, "true")
    assert (await client("POST", path, {"script": ""})).status_code == 200
    assert (await client("POST", path, {})).status_code == 400
    assert (await client("GET", path)).json() == "true"
