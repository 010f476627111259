"""What a door remembers that has no broker to ask which deliveries have started."""

from .signature import LIFETIME, SKEW


class Nonces:
    """The deliveries this process has seen: kept for as long as their signatures could still be accepted."""

    def __init__(self) -> None:
        """Begin with none."""
        self._until: dict[str, float] = {}

    def add(self, nonce: str, *, now: float) -> bool:
        """Note a nonce; False if it is known. ``now`` as ``time.monotonic()``."""
        while self._until and next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]
        if nonce in self._until:
            return False
        self._until[nonce] = now + LIFETIME + SKEW
        return True
