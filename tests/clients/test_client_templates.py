"""Session templates and dotfiles by the official clients, up to the session that is made with them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from live.service import Service
from official import Client

pytestmark = pytest.mark.clients

IMAGE = "python"
TEMPLATE = """
api_version: "6"
kind: taskTemplate
metadata:
  name: {name}
  tag: blue
spec:
  kernel:
    image: python
    environ:
      COLOUR: blue
      SHAPE: round
    run:
      bootstrap: |
        echo "booted in $COLOUR" > booted
  resources:
    cpu: 1
    mem: 512m
"""
#: What the later command lines are for, but they break on their own defaults before they send anything.
FROM_TEMPLATE = """
from ai.backend.client.session import Session
with Session() as api:
    made = api.ComputeSession.create_from_template({template!r}, name={name!r}, envs={{"COLOUR": "red"}})
    print(made.status, made.created)
"""
WORKING_COMMANDS = {
    "20.3.10": ("start-template", "-t"),
    "23.9.10": ("session", "create-from-template", "-t"),
}
LOOK = "import os; print(open('booted').read().strip(), os.environ['COLOUR'], os.environ.get('SHAPE'))"


def new_name() -> str:
    return f"test-{uuid4().hex[:12]}"


async def made_from(client: Client, template: str, name: str) -> None:
    command = WORKING_COMMANDS.get(client.generation.version)
    if command is None:
        said = await client.library(FROM_TEMPLATE.format(template=template, name=name))
        assert said.out == "RUNNING True\n", said
    else:
        said = await client(*command, name, "-e", "COLOUR=red", template)
        assert f"Session ID {name} is created and ready" in said.out + said.err, said


@asynccontextmanager
async def ended(client: Client, name: str) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client(*client.generation.terminate, name)


async def test_templates(client: Client, tmp_path: Path) -> None:
    name, file = new_name(), tmp_path / "template.yaml"
    file.write_text(TEMPLATE.format(name=name))
    made = await client("sesstpl", "create", "-f", str(file))
    found = re.search(r"Task template (\w+) created and ready", made.out + made.err)
    assert found, made
    template = found[1]

    listed = await client("sesstpl", "list")
    assert re.search(rf"^{name} +{template} .* True ", listed.out, re.MULTILINE), listed
    shown = yaml.safe_load((await client("sesstpl", "get", template)).out)
    # Client 20.03 is shown the document itself.
    assert shown.get("template", shown)["spec"]["kernel"]["image"] == "python"

    async with ended(client, name):
        await made_from(client, template, name)
        said = await client("run", "-t", name, "-c", LOOK, IMAGE)
        # What was asked for replaces what the template has.
        assert said.out == "booted in red red None\n", said

    file.write_text(TEMPLATE.format(name="renamed"))
    assert (await client("sesstpl", "update", template, "-f", str(file))).code == 0
    assert re.search(rf"^renamed +{template} ", (await client("sesstpl", "list")).out, re.MULTILINE)
    file.write_text("kind: taskTemplate")
    refused = await client("sesstpl", "update", template, "-f", str(file))
    assert (refused.code, "invalid API parameters" in refused.out + refused.err) == (1, True), refused
    assert (await client("sesstpl", "delete", "-f", template)).code == 0
    assert template not in (await client("sesstpl", "list")).out
    gone = await client("sesstpl", "get", template)
    assert "No such task template" in gone.out + gone.err, gone


async def test_dotfiles(client: Client, service: Service, tmp_path: Path) -> None:
    path, file = f".{new_name()}", tmp_path / "dotfile"
    file.write_text("first\n")
    made = await client("dotfile", "create", path, "--perm", "640", "-f", str(file))
    assert f"Dotfile {path} created and ready" in made.out + made.err, made
    again = await client("dotfile", "create", path, "-f", str(file))
    assert (again.code, "Dotfile already exists" in again.out + again.err) == (1, True), again
    refused = await client("dotfile", "create", ".ssh/authorized_keys", "-f", str(file))
    assert (refused.code, "reserved" in refused.out + refused.err) == (1, True), refused
    assert re.search(rf"^{path} +first +640$", (await client("dotfile", "list")).out, re.MULTILINE)

    file.write_text("second\n")
    assert (await client("dotfile", "update", path, "--perm", "600", "-f", str(file))).code == 0
    assert "second" in (await client("dotfile", "get", path)).out
    code = (
        f"import os; print(open({path!r}).read(), oct(os.stat({path!r}).st_mode & 0o777), os.getuid() != 0)"
    )
    said = await client("run", "--rm", "-c", code, IMAGE)
    assert said.out == "second\n 0o600 True\n", said

    assert (await client("dotfile", "delete", "-f", path)).code == 0
    gone = await client("dotfile", "get", path)
    assert "No such dotfile" in gone.out + gone.err, gone


async def test_dotfiles_of_a_domain_and_a_project(client: Client, service: Service, tmp_path: Path) -> None:
    if client.generation.version == "20.3.10":
        pytest.skip("client 20.03 does not know them")
    access_key, secret_key = service.keys(admin=True)
    admin = {"BACKEND_ACCESS_KEY": access_key, "BACKEND_SECRET_KEY": secret_key}
    path, file = f".{new_name()}", tmp_path / "dotfile"
    for number, where in enumerate((("-d", "default"), ("-d", "default", "-g", "default"))):
        file.write_text(f"file {number}\n")
        refused = await client("dotfile", "create", path, "-f", str(file), *where)
        assert refused.code == 1, refused
        made = await client("dotfile", "create", path, "-f", str(file), *where, environ=admin)
        assert made.code == 0, made
        assert f"file {number}" in (await client("dotfile", "list", *where)).out
    # The project's goes before the domain's.
    said = await client("run", "--rm", "-c", f"print(open({path!r}).read())", IMAGE)
    assert said.out == "file 1\n\n", said
    for where in (("-d", "default"), ("-d", "default", "-g", "default")):
        assert (await client("dotfile", "delete", "-f", path, *where, environ=admin)).code == 0
