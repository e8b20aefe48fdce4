"""What a kernel's messages become on the user's console (contract: stdout, stderr, media, html). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

#: Image types in order of preference, when an object offers several.
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp")
#: Characters of one media or html item; it must fit into one reply on every hop.
MAX_RICH = 12 << 20
_INTEGER = re.compile(r"-?\d{1,9}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A console item that has no index yet."""

    kind: str
    data: str
    mime: str | None = None


def pieces_of(kind: str, content: dict[str, Any]) -> list[Piece]:
    """The console pieces of one iopub message; none for messages that print nothing."""
    match kind:
        case "stream":
            name = "stderr" if content.get("name") == "stderr" else "stdout"
            return [Piece(name, _text(content.get("text")))]
        case "execute_result":
            return _result(_bundle(content))
        case "display_data" | "update_display_data":
            bundle = _bundle(content)
            return _rich(bundle) or _plain(bundle)
        case "error":
            return _error(content)
        case _:
            return []


def exit_code_of(content: dict[str, Any]) -> int:
    """The exit code that an ``execute_reply`` stands for: what a script with this code would have left."""
    if content.get("status") == "ok":
        return _asked_exit_code(content)
    if content.get("ename") == "SystemExit":
        value = _text(content.get("evalue")).strip()
        if value in ("", "None"):
            return 0
        if _INTEGER.fullmatch(value):
            return int(value) & 0xFF
    return 1


def _asked_exit_code(content: dict[str, Any]) -> int:
    """IPython's own ``exit(n)`` is no exception there; n travels in the reply's payload."""
    payload = content.get("payload")
    for entry in payload if isinstance(payload, list) else []:
        if isinstance(entry, dict) and entry.get("source") == "ask_exit":
            code = entry.get("keepkernel")
            return code & 0xFF if isinstance(code, int) and not isinstance(code, bool) else 0
    return 0


def _result(bundle: dict[str, Any]) -> list[Piece]:
    return _plain(bundle) + _rich(bundle)


def _plain(bundle: dict[str, Any]) -> list[Piece]:
    text = _text(bundle.get("text/plain"))
    return [Piece("stdout", text + "\n")] if text else []


def _rich(bundle: dict[str, Any]) -> list[Piece]:
    for mime in _IMAGES:
        if data := _text(bundle.get(mime)):
            if mime != "image/svg+xml":
                data = f"data:{mime};base64," + data.replace("\n", "")
            return [_bounded(Piece("media", data, mime))]
    if html := _text(bundle.get("text/html")):
        return [_bounded(Piece("html", html))]
    return []


def _bounded(piece: Piece) -> Piece:
    if len(piece.data) <= MAX_RICH:
        return piece
    return Piece(
        "stderr", f"[{piece.mime or piece.kind} of {len(piece.data)} characters left out: too large]\n"
    )


def _error(content: dict[str, Any]) -> list[Piece]:
    if content.get("ename") == "SystemExit":
        value = _text(content.get("evalue"))
        is_code = value in ("", "None") or _INTEGER.fullmatch(value)
        return [] if is_code else [Piece("stderr", value + "\n")]
    traceback = content.get("traceback")
    lines = [_text(line) for line in traceback] if isinstance(traceback, list) else []
    if not any(lines):
        lines = [f"{_text(content.get('ename'))}: {_text(content.get('evalue'))}"]
    return [Piece("stderr", "\n".join(lines) + "\n")]


def _bundle(content: dict[str, Any]) -> dict[str, Any]:
    data = content.get("data")
    return data if isinstance(data, dict) else {}


def _text(value: object) -> str:
    """Some kernels send lists of lines where the protocol has a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return ""
