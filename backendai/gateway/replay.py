"""When a repeated signature is refused.

A signature is good for the 15 minutes its date may be off either way, so whoever overhears a request
could send it again. Requests that change something are therefore taken once. What real clients do was
looked at first, because some repeat themselves in good faith:

* The official clients sign a date with microseconds, so two requests of theirs never share a signature.
* Their HTTP library sends a GET, HEAD, OPTIONS, PUT or DELETE again by itself, same signature, when a kept
  connection turns out to be closed under it. That happens at once, so these methods may be repeated for
  :data:`RETRY_GRACE` seconds. They mean the same twice.
* Their event stream reconnects with the headers of its first request for as long as the date holds.
  Reading is never refused.
* Scripts (curl with ``date``) sign whole seconds, so two different requests to one URL within a second
  share a signature (the body is not signed since v4.20181215). Such dates may be repeated for
  :data:`COARSE_GRACE` seconds.

Within the graces a repetition is possible by design; TLS is what keeps others from overhearing at all.
"""

from __future__ import annotations

from backendai.core.errors import AuthFailed

RETRY_GRACE = 10.0
COARSE_GRACE = 2.0
#: What HTTP defines as idempotent, which is what client libraries retry.
_RETRIED_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


def refuse_repetition(first_seen: float | None, *, method: str, coarse_date: bool) -> None:
    """Raise :class:`AuthFailed` for a request whose signature was used ``first_seen`` seconds ago.

    ``coarse_date`` tells that the signed date has no fraction of a second.
    """
    if first_seen is None:
        return
    grace = RETRY_GRACE if method in _RETRIED_METHODS else COARSE_GRACE if coarse_date else 0.0
    if first_seen >= grace:
        raise AuthFailed("The request was already made; sign it anew with the current date")
