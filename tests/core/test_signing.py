"""Every vector of the contract, and the ways a header can be wrong."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backendai.core import signing
from backendai.core.account import Secret
from backendai.core.errors import AuthFailed, BackendError, InvalidAuthParameters
from backendai.core.signing import Authorization, SignedRequest

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "127.0.0.1:8081"
MODERN_DATE = "2022-03-15T12:34:56.123456+00:00"
LEGACY_DATE = "2018-02-01T12:34:56.123456+00:00"
LEGACY_BODY = b'{"lang": "python3", "clientSessionToken": "abcdef0123456789"}'


def request(
    method: str,
    target: str,
    content_type: str | None,
    version: str = "v6.20220315",
    *,
    date: str = MODERN_DATE,
    body: bytes = b"",
    version_header: str = "x-backendai-version",
) -> SignedRequest:
    return SignedRequest(
        method=method,
        target=target,
        date_text=date,
        date=signing.parse_date(date),
        host=HOST,
        content_type=content_type,
        version_header=version_header,
        version=version,
        body=body,
    )


def legacy(method: str, target: str, content_type: str | None, version: str, body: bytes) -> SignedRequest:
    return request(method, target, content_type, version, date=LEGACY_DATE, body=body)


JSON = "application/json"
SORNA = request(
    "POST",
    "/v1/kernel/create",
    JSON,
    "v1.20160915",
    date="2017-07-18T12:34:56+00:00",
    body=LEGACY_BODY,
    version_header="x-sorna-version",
)
VECTORS = {
    "V1": (
        request("GET", f"/session/my-sess?owner_access_key={ACCESS_KEY}", "text/plain"),
        "sha256",
        "0916811d83fca986d07e498586a5294cee1887cda590455fc9f09bed2fa22608",
    ),
    "V2": (
        request("POST", "/session", JSON, body=b'{"anything": true}'),
        "sha256",
        "1de5a0b131ac0f9035872670adfcf9bafd6eb72205cc22e75ed48178fb534ac4",
    ),
    "V3": (
        request("POST", "/session/my-sess/upload", "multipart/form-data; boundary=abc", body=b"--abc"),
        "sha256",
        "afb35b400b82fd399e8c4d48f7a53467d2e9ff66010854a9c8c404d7603dee75",
    ),
    "V4": (
        request("GET", "/stream/session/my-sess/execute", None),
        "sha256",
        "56e2426d56ba5fe2a6f10760961b00293c0fc7f40acdd344ea6e10caa5de6a69",
    ),
    "V5": (
        legacy("POST", "/v2/kernel/create", JSON, "v2.20170315", LEGACY_BODY),
        "sha256",
        "5905e35305fcc5c428ca821ae0cb1f0ddfe11c9cea1211993024281af04ca7f9",
    ),
    "V6": (
        legacy("POST", "/v3/kernel/create", JSON, "v3.20170615", LEGACY_BODY),
        "sha256",
        "b5fae20d6bc3f784c47105f79c2d3c169aebbb82b698a5cb2261d954d8c03bfd",
    ),
    "V7": (
        legacy("POST", "/kernel/create", JSON, "v4.20181215", LEGACY_BODY),
        "sha256",
        "817c33434f865449880717a98030730860b18e52c5a86faa49d9094856c9451c",
    ),
    "V8": (
        legacy("GET", "/v2/kernel/mykernelid", "application/octet-stream", "v2.20170315", b""),
        "sha256",
        "3d821db1a3ab3bd256224b0237c3eafcc9ad604ab50adb6d167e916292600c25",
    ),
    "V9": (SORNA, "sha256", "00959439daffdffeba96b13b63eb58b210a4cb95f421468b84524e2a8cef82bb"),
    "V9-sha1": (SORNA, "sha1", "733bc566cb9d88285e9e84cf3d3d93ebe535fcbf"),
    "V10": (
        request("GET", "/session/my-sess", "text/plain", date="2022-03-16T08:34:56+09:00"),
        "sha256",
        "5ba45034275856b8480eedf5a0ff4f0577ac4e59db4563e0562e2f8b648781ff",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    signed, hash_name, signature = VECTORS[name]
    assert signing.sign(signed, SECRET, hash_name) == signature
    assert signing.verify(signed, Authorization(ACCESS_KEY, hash_name, signature), SECRET)
    assert not signing.verify(signed, Authorization(ACCESS_KEY, hash_name, signature[:-1] + "?"), SECRET)
    assert not signing.verify(signed, Authorization(ACCESS_KEY, hash_name, "\u00e9"), SECRET)
    assert not signing.verify(signed, Authorization(ACCESS_KEY, hash_name, signature), Secret("other"))


def test_string_to_sign_of_v1_line_by_line() -> None:
    assert VECTORS["V1"][0].string_to_sign("sha256").split("\n") == [
        "GET",
        f"/session/my-sess?owner_access_key={ACCESS_KEY}",
        MODERN_DATE,
        "host:127.0.0.1:8081",
        "content-type:text/plain",
        "x-backendai-version:v6.20220315",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ]


def test_every_part_is_covered() -> None:
    base = VECTORS["V1"][0]
    signature = Authorization(ACCESS_KEY, "sha256", VECTORS["V1"][2])
    for other in (
        base.with_method("DELETE"),
        request("GET", "/session/my-sess", "text/plain"),
        request("GET", base.target, JSON),
        request("GET", base.target, "text/plain", "v5.20191215"),
        request("GET", base.target, "text/plain", date="2022-03-15T12:34:56.123457+00:00"),
    ):
        assert not signing.verify(other, signature, SECRET)


@pytest.mark.parametrize("hash_name", ["md5", "sha1", "sha224", "sha384", "sha512", "blake2b", "sha3_256"])
def test_every_fixed_length_hash_signs(hash_name: str) -> None:
    header = f"BackendAI signMethod=hmac-{hash_name.upper()}, credential={ACCESS_KEY}:"
    signed = VECTORS["V5"][0]
    authorization = signing.parse_authorization(header + signing.sign(signed, SECRET, hash_name))
    assert authorization.hash_name == hash_name
    assert signing.verify(signed, authorization, SECRET)


def test_header_parts_may_come_in_any_order() -> None:
    for header in (
        "BackendAI signMethod=HMAC-SHA256, credential=AK:abc",
        "Sorna credential=AK:abc,signMethod=HMAC-sha256",
        "BackendAI  credential = AK:abc , x=y , signMethod = hmac-SHA256",
    ):
        assert signing.parse_authorization(header) == Authorization("AK", "sha256", "abc")


@pytest.mark.parametrize(
    ("header", "error", "message"),
    [
        ("BackendAI", InvalidAuthParameters, "Malformed authorization header"),
        ("Bearer abc", InvalidAuthParameters, "Invalid authorization type name"),
        ("backendai a=b", InvalidAuthParameters, "Invalid authorization type name"),
        ("BackendAI garbage", InvalidAuthParameters, "Missing or malformed authorization parameters"),
        (
            "BackendAI signMethod=HMAC-SHA256",
            InvalidAuthParameters,
            "Missing or malformed authorization parameters",
        ),
        (
            "BackendAI signMethod=HMAC-SHA256, credential=nocolon",
            InvalidAuthParameters,
            "Missing or malformed authorization parameters",
        ),
        (
            "BackendAI signMethod=POLY-SHA256, credential=a:b",
            InvalidAuthParameters,
            "Unsupported request signing method (MAC type)",
        ),
        (
            "BackendAI signMethod=HMAC-CRC32, credential=a:b",
            InvalidAuthParameters,
            "Unsupported request signing method (hash type)",
        ),
        (
            "BackendAI signMethod=HMAC-SHAKE_128, credential=a:b",
            InvalidAuthParameters,
            "Unsupported request signing method (hash type)",
        ),
        ("BackendAI signMethod=HMAC-SHA3-256, credential=a:b", AuthFailed, "Invalid signature"),
        ("BackendAI signMethod=HMACSHA256, credential=a:b", AuthFailed, "Invalid signature"),
    ],
)
def test_bad_header(header: str, error: type[BackendError], message: str) -> None:
    with pytest.raises(error) as caught:
        signing.parse_authorization(header)
    assert caught.value.msg == message


NOW = datetime(2022, 3, 15, 12, 34, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2022-03-15T12:34:56.000000+00:00",
        "2022-03-15T12:34:56",
        "2022-03-15T12:34:56Z",
        "20220315T12:34:56",
        "Tue, 15 Mar 2022 12:34:56 GMT",
        "Tue, 15 Mar 2022 07:34:56 EST",
        "2022-03-15 21:34:56 KST",
        "2022-03-15 21:34:56 JST",
        "2022-03-15 04:34:56 PST",
        "2022-03-15 14:34:56 B",
        "2022-03-15T21:34:56+09:00",
        "Tue Mar 15 12:34:56 UTC 2022",
    ],
)
def test_dates_of_any_form(text: str) -> None:
    assert signing.signed_date({"date": text}, NOW) == (text, NOW)


def test_date_headers_by_precedence() -> None:
    first, other = "2022-03-15T12:34:56Z", "2022-03-15T12:34:57Z"
    assert signing.signed_date({"x-sorna-date": other, "x-backendai-date": first}, NOW)[0] == first
    assert signing.signed_date({"x-sorna-date": other, "date": first}, NOW)[0] == first
    assert signing.signed_date({"x-sorna-date": first, "date": ""}, NOW)[0] == first


@pytest.mark.parametrize("text", ["", "junk", "9" * 60, "2022-03-15 12:34:56 XXT", "12:34:56", "x" * 100_000])
def test_bad_date(text: str) -> None:
    with pytest.raises(InvalidAuthParameters) as caught:
        signing.signed_date({"date": text}, NOW)
    assert caught.value.msg == "Date/time sync error"


@pytest.mark.parametrize("sign", [1, -1])
def test_tolerance_is_strict(sign: int) -> None:
    limit = sign * timedelta(minutes=15)
    text = NOW.isoformat()
    signing.signed_date({"date": text}, NOW + limit - sign * timedelta(microseconds=1))
    with pytest.raises(InvalidAuthParameters):
        signing.signed_date({"date": text}, NOW + limit)


@given(st.text(max_size=80))
def test_no_text_makes_the_date_parser_fail_otherwise(text: str) -> None:
    with suppress(ValueError):
        assert signing.parse_date(text).tzinfo is not None


@given(st.text(max_size=200))
def test_no_text_makes_the_header_parser_fail_otherwise(text: str) -> None:
    with suppress(BackendError):
        signing.parse_authorization("BackendAI " + text)
