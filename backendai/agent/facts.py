"""What happened to kernels, kept until the manager has taken note."""

from __future__ import annotations

from backendai.supervision.periodic import Alarm
from backendai.wire.link import (
    Fact,
    KernelCreating,
    KernelEvent,
    KernelFailed,
    KernelPulling,
    KernelStarted,
    KernelTerminated,
)

#: What a newer fact about the same kernel makes pointless. So at most three facts per kernel wait.
_OUTDATED: dict[type[KernelEvent], tuple[type[KernelEvent], ...]] = {
    KernelPulling: (KernelPulling,),
    KernelCreating: (KernelPulling, KernelCreating),
    KernelStarted: (KernelPulling, KernelCreating, KernelStarted),
    KernelFailed: (KernelPulling, KernelCreating),
    KernelTerminated: (KernelPulling, KernelCreating, KernelTerminated),
}


class FactOutbox:
    """Facts in the order they happened, numbered within this boot, each kept until acknowledged."""

    def __init__(self, agent_id: str, boot_id: str) -> None:
        self._agent_id = agent_id
        self._boot_id = boot_id
        self._waiting: dict[int, Fact] = {}
        self._last = 0
        #: Rings when a fact was added.
        self.added = Alarm()

    def report(self, event: KernelEvent) -> None:
        """Never blocks, never fails."""
        outdated = _OUTDATED[type(event)]
        for seq, fact in list(self._waiting.items()):
            if fact.event.kernel_id == event.kernel_id and isinstance(fact.event, outdated):
                del self._waiting[seq]
        self._last += 1
        self._waiting[self._last] = Fact(
            agent_id=self._agent_id, boot_id=self._boot_id, seq=self._last, event=event
        )
        self.added.ring()

    def waiting(self, after: int = 0) -> list[Fact]:
        """Facts not acknowledged yet, oldest first, with numbers above ``after``."""
        return [fact for seq, fact in self._waiting.items() if seq > after]

    def acknowledge(self, boot_id: str, seq: int) -> None:
        """The manager has ``seq``. What it says of another boot is none of ours."""
        if boot_id == self._boot_id:
            self._waiting.pop(seq, None)
