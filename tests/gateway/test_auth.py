"""Who gets in, in which order things are checked, and what is refused when it comes twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fakes import ADMIN, USER, Fakes
from gateway_client import SigningClient, sign_headers

from backendai.core.errors import AuthFailed
from backendai.gateway.replay import COARSE_GRACE, RETRY_GRACE, refuse_repetition


def slug(response: object) -> str:
    return str(response.json()["type"]).rpartition("/")[2]  # type: ignore[attr-defined]


async def test_signed_request_gets_in_and_is_told_its_rate(client: SigningClient, fakes: Fakes) -> None:
    response = await client("GET", "/auth?echo=h%C3%A9llo")
    assert response.status_code == 200
    assert response.json() == {"authorized": "yes", "echo": "h\u00e9llo"}
    assert response.headers["x-ratelimit-limit"] == "1000"
    assert response.headers["x-ratelimit-remaining"] == "999"
    assert response.headers["x-ratelimit-window"] == "900"
    assert fakes.accounts.counted == [USER.access_key]


@pytest.mark.parametrize("version", ["v1.20160915", "v2.20170315", "v4.20190615", "v9.20250722"])
async def test_every_generation_gets_in(client: SigningClient, version: str) -> None:
    major = version[1]
    response = await client("POST", f"/v{major}/auth", {"echo": "x"}, version=version)
    assert response.json() == {"authorized": "yes", "echo": "x"}
    response = await client("GET", f"/v{major}/authorize", {"echo": "x"}, version=version)
    assert response.json() == {"authorized": "yes", "echo": "x"}


async def test_old_versions_sign_the_body(client: SigningClient) -> None:
    headers = sign_headers(
        "POST",
        "/v2/auth",
        client.host,
        body=b'{"echo":"a"}',
        version="v2.20170315",
        content_type="application/json",
    )
    response = await client.http.post("/v2/auth", content=b'{"echo":"b"}', headers=headers)
    assert (response.status_code, slug(response)) == (401, "auth-failed")


async def test_checks_in_the_order_of_the_contract(client: SigningClient) -> None:
    good = sign_headers("GET", "/auth", client.host)
    late = sign_headers(
        "GET", "/auth", client.host, date=(datetime.now(UTC) - timedelta(minutes=16)).isoformat()
    )
    unknown_key = good["Authorization"].replace(USER.access_key, "AKIANOBODY")
    cases: list[tuple[dict[str, str], int, str, str]] = [
        ({}, 400, "invalid-auth-params", "Date/time sync error"),
        (late, 400, "invalid-auth-params", "Date/time sync error"),
        ({"Date": good["Date"]}, 401, "auth-failed", "Unauthorized access"),
        (
            good | {"Authorization": "Basic abc"},
            400,
            "invalid-auth-params",
            "Invalid authorization type name",
        ),
        (good | {"Authorization": unknown_key}, 401, "auth-failed", "Access key not found"),
        (
            {name: value for name, value in good.items() if name != "X-BackendAI-Version"},
            400,
            "invalid-auth-params",
            "API version missing in request headers",
        ),
        (good | {"Content-Type": "application/json"}, 401, "auth-failed", "Signature mismatch"),
    ]
    for headers, status, code, message in cases:
        response = await client.http.get("/auth", headers=headers)
        assert (response.status_code, slug(response), response.json()["msg"]) == (status, code, message)
        assert "x-ratelimit-limit" not in response.headers


async def test_too_many_requests(client: SigningClient, fakes: Fakes) -> None:
    fakes.rate.allowed = False
    response = await client("GET", "/auth?echo=x")
    assert (response.status_code, slug(response)) == (429, "rate-limit-exceeded")
    assert "retry-after" in response.headers


async def test_superadmin_only(client: SigningClient, fakes: Fakes) -> None:
    body = {"enabled": True, "message": "hello"}
    response = await client("POST", "/manager/announcement", body)
    assert (response.status_code, response.json()["msg"]) == (401, "Unauthorized access")
    response = await client("POST", "/manager/announcement", body, principal=ADMIN)
    assert (response.status_code, response.content) == (204, b"")
    assert (await client.http.get("/manager/announcement")).json() == body


async def test_acting_for_another(client: SigningClient, fakes: Fakes) -> None:
    await client("GET", f"/session/abcd?owner_access_key={USER.access_key}", principal=ADMIN)
    assert fakes.sessions.calls[-1] == ("info", USER, "abcd")
    # The query counts even beside a body.
    await client("POST", f"/session/abcd/interrupt?owner_access_key={USER.access_key}", {}, principal=ADMIN)
    response = await client("GET", f"/session/abcd?owner_access_key={ADMIN.access_key}")
    assert response.status_code == 403
    response = await client("GET", "/session/abcd?owner_access_key=nobody")
    assert response.json()["msg"] == "Unknown owner access key"


async def test_changing_request_is_taken_once(client: SigningClient, fakes: Fakes) -> None:
    headers = sign_headers("PATCH", "/session/abcd", client.host)
    assert (await client.http.patch("/session/abcd", headers=headers)).status_code == 204
    again = await client.http.patch("/session/abcd", headers=headers)
    assert (again.status_code, slug(again)) == (401, "auth-failed")
    assert len(fakes.sessions.calls) == 1


async def test_reading_may_be_repeated(client: SigningClient) -> None:
    headers = sign_headers("GET", "/session/abcd", client.host)
    for _ in range(3):
        assert (await client.http.get("/session/abcd", headers=headers)).status_code == 200


async def test_idempotent_methods_may_be_retried_at_once(client: SigningClient) -> None:
    headers = sign_headers("DELETE", "/session/abcd", client.host)
    for _ in range(2):
        assert (await client.http.delete("/session/abcd", headers=headers)).status_code == 200


async def test_dates_in_whole_seconds_may_collide(client: SigningClient) -> None:
    date = datetime.now(UTC).replace(microsecond=0).isoformat()
    for _ in range(2):
        assert (await client("POST", "/session/abcd/interrupt", date=date)).status_code == 204


@pytest.mark.parametrize(
    ("method", "coarse", "grace"),
    [
        ("POST", False, 0.0),
        ("PATCH", True, COARSE_GRACE),
        ("DELETE", False, RETRY_GRACE),
        ("GET", True, RETRY_GRACE),
    ],
)
def test_graces_end(method: str, coarse: bool, grace: float) -> None:
    refuse_repetition(None, method=method, coarse_date=coarse)
    if grace:
        refuse_repetition(grace / 2, method=method, coarse_date=coarse)
    with pytest.raises(AuthFailed):
        refuse_repetition(grace, method=method, coarse_date=coarse)


async def test_method_override(client: SigningClient, fakes: Fakes) -> None:
    """Signed with either method; but a signed reading request cannot be turned into a changing one."""
    override = {"X-Method-Override": "DELETE"}
    as_sent = sign_headers("POST", "/session/abcd", client.host)
    assert (await client.http.post("/session/abcd", headers=as_sent | override)).status_code == 200
    as_meant = sign_headers("DELETE", "/session/abcd", client.host)
    assert (await client.http.post("/session/abcd", headers=as_meant | override)).status_code == 200
    assert [call[0] for call in fakes.sessions.calls] == ["destroy", "destroy"]
    reading = sign_headers("GET", "/session/abcd", client.host)
    response = await client.http.get("/session/abcd", headers=reading | override)
    assert (response.status_code, response.json()["msg"]) == (401, "Signature mismatch")


async def test_role(client: SigningClient) -> None:
    answer = (await client("GET", "/auth/role", principal=ADMIN)).json()
    assert answer == {"global_role": "superadmin", "domain_role": "admin", "group_role": None}
    answer = (await client("GET", "/auth/role?group=88888888-2222-3333-4444-555555555555")).json()
    assert answer == {"global_role": "user", "domain_role": "user", "group_role": "user"}
    response = await client("GET", "/auth/role?group=77777777-2222-3333-4444-555555555555")
    assert (response.status_code, response.json()["title"]) == (404, "No such project (user group).")
