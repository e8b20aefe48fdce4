"""Bodies in YAML."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import Fakes
from gateway_client import SigningClient

from backendai.core.errors import InvalidParameters
from backendai.gateway.yaml_body import MAX_YAML, read_yaml


def test_every_scalar_is_a_string() -> None:
    body = b"""
name: my-sess
count: 1
yes: no
nothing:
config: {resources: {cpu: 0.5}, mounts: [a, ~, 'c']}
code: |
  print(1)
tagged: !!python/object:os.system x
"""
    assert read_yaml(body) == {
        "name": "my-sess",
        "count": "1",
        "yes": "no",
        "nothing": "",
        "config": {"resources": {"cpu": "0.5"}, "mounts": ["a", "~", "c"]},
        "code": "print(1)\n",
        "tagged": "x",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"a: &anchor 1",
        b"a: *nothing",
        b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        b"[" * 5000,
        b"{" * 5000,
        b"a: " + b"[" * 70 + b"]" * 70,
        b"? [a]\n: b",
        b"a: 1\n---\nb: 2",
        b"a: b: c",
        b"a: \x00",
        b'a: "\\ud800"',
        b"a: \xff",
        b"# nothing",
        b"a: " + b"x" * MAX_YAML,
    ],
)
def test_refused(body: bytes) -> None:
    with pytest.raises(InvalidParameters):
        read_yaml(body)


async def test_as_a_request(client: SigningClient, fakes: Fakes) -> None:
    def post(path: str, body: bytes) -> Any:
        return client("POST", path, body, content_type="text/yaml; charset=utf-8")

    created = await post("/session", b"name: my-sess\nimage: python\ncluster_size: 2\nreuseIfExists: off\n")
    assert created.status_code == 201
    wish = fakes.sessions.calls[-1][-1]
    assert (wish.name, wish.cluster_size, wish.reuse) == ("my-sess", 2, False)
    assert (await post("/auth", b"echo: x")).json()["echo"] == "x"
    for path, body in (
        ("/auth", b"echo: &x y"),
        ("/auth", b"- echo"),
        ("/auth", b"echo"),
        ("/auth", b'echo: "\\0"'),
        ("/admin/gql", b"query: &x y"),
    ):
        assert (await post(path, body)).status_code == 400
