"""Who signed a request, and whether it may pass: signature, rate, repetition (contract 01 §3.7, §7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from backendai.core import signing
from backendai.core.account import Principal, RateState
from backendai.core.errors import AuthFailed, InvalidAuthParameters, RateLimitExceeded
from backendai.gateway.replay import refuse_repetition
from backendai.gateway.services import Accounts, RateLimits
from backendai.gateway.versions import version_header

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: What unsigned requests are told of their rate; nothing counts them.
ANONYMOUS_RATE = RateState(1000, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The parts of a request that its signature may cover."""

    #: As on the request line.
    method: str
    #: What ``X-Method-Override`` made of it, else the same.
    effective_method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    changes_state: bool


class Authenticator:
    def __init__(self, accounts: Accounts, rate: RateLimits) -> None:
        self._accounts = accounts
        self._rate = rate

    async def admit(self, evidence: Evidence) -> tuple[Principal, RateState]:
        """The account that signed the request, and what is left of its rate.

        The checks come in the order of the contract, clients depend on which failure they see. Raises
        :class:`InvalidAuthParameters`, :class:`AuthFailed` or :class:`RateLimitExceeded`.
        """
        date_text, date = signing.signed_date(evidence.headers, datetime.now(UTC))
        header = evidence.headers.get("authorization")
        if header is None:
            raise AuthFailed("Unauthorized access")
        authorization = signing.parse_authorization(header)
        credential = await self._accounts.credential(authorization.access_key)
        if credential is None:
            raise AuthFailed("Access key not found")
        version = version_header(evidence.headers)
        if version is None:
            raise InvalidAuthParameters("API version missing in request headers")
        request = signing.SignedRequest(
            method=evidence.effective_method,
            target=evidence.target,
            date_text=date_text,
            date=date,
            host=evidence.headers.get("host", ""),
            content_type=evidence.headers.get("content-type"),
            version_header=version[0],
            version=version[1],
            body=evidence.body,
        )
        signed = signing.verify(request, authorization, credential.secret_key)
        if not signed and _may_be_signed_as_sent(evidence):
            signed = signing.verify(
                request.with_method(evidence.method), authorization, credential.secret_key
            )
        if not signed:
            raise AuthFailed("Signature mismatch")
        return await self._count(credential.principal, authorization, evidence, date)

    async def _count(
        self, principal: Principal, authorization: signing.Authorization, evidence: Evidence, date: datetime
    ) -> tuple[Principal, RateState]:
        claim = f"{authorization.access_key}:{authorization.signature}" if evidence.changes_state else None
        rate = await self._rate.check(principal.access_key, principal.rate_limit, claim=claim)
        if not rate.allowed:
            raise RateLimitExceeded
        refuse_repetition(
            rate.first_seen, method=evidence.effective_method, coarse_date=date.microsecond == 0
        )
        self._accounts.count_query(principal.access_key)
        return principal, rate


def _may_be_signed_as_sent(evidence: Evidence) -> bool:
    # An override is not signed: it must not turn an overheard reading request into a changing one.
    return evidence.effective_method != evidence.method and (
        evidence.method not in _SAFE_METHODS or evidence.effective_method in _SAFE_METHODS
    )
