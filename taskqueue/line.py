"""One queue as a consumer sees it: what is to be told to the broker, and whether it is worth asking for tasks."""

import secrets
from dataclasses import dataclass, field
from typing import Final

from .broker import Lease
from .task import Settlement

# So many settlements from one clearing out of what was kept long enough to the next; there is one at the start.
TRIM_EVERY: Final = 100


@dataclass(slots=True, eq=False)
class Line:
    """One queue of a consumer.

    ``promising``: something may wait there. ``unsure``: a reply was lost, so tasks may be reserved that nobody here
    knows of; the same token brings them.
    """

    lease: Lease
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    settlements: list[Settlement] = field(default_factory=list)
    promising: bool = True
    unsure: bool = False
    look_for_due: float = 0.0
    untrimmed: int = TRIM_EVERY

    def idle(self, now: float) -> bool:
        """Tell whether nothing has to be told, and nothing was to be had a moment ago."""
        return not (self.promising or self.settlements or self.unsure) and now < self.look_for_due
