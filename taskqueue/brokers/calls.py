"""What is asked of Redis: one call each, of which some ride together in one command.

Calls of a joint script to the same queue that go into one round trip become one command: their arguments follow each
other, and the reply has an answer for each. Each keeps a deadline, an outcome and a caller of its own, and is repeated
alone or in other company if a reply was lost.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import hiredis
from redis.exceptions import NoScriptError, ResponseError

from ..errors import BrokerUnavailable, ReplyLost
from .refusals import is_transient, said
from .scripts import Script

# No script may block Redis for long: so much rides together at most, and what is larger by itself travels alone.
MOST_TASKS: Final = 200
MOST_BYTES: Final = 1024 * 1024
# What makes Redis wait for its replicas: see Link._wait.
WAIT_COMMANDS: Final = 2

Arguments = Sequence[str | bytes | int]

pack: Final[Callable[..., bytes]] = hiredis.pack_command
"""Takes the words of a command as a tuple, and returns what goes on the wire."""


class Copies(NamedTuple):
    """So many replicas must have what a call wrote before it counts; a reply other than ``written`` wrote nothing."""

    replicas: int
    written: object


class Load(NamedTuple):
    """How many tasks a call takes along, and bytes of records."""

    tasks: int
    bytes: int


@dataclass(eq=False)  # without slots, so that what is as it mostly is need not be written
class Call:
    """One script call (or plain command) under way.

    ``in_flight``: sent, no reply yet; ``lost``: was in flight when a line broke, so Redis may have carried it out.
    ``load``: what it takes along, if it may ride with others of its kind.
    """

    command: Script | str
    keys: Sequence[str]
    deadline: float
    reply: "asyncio.Future[Any]"
    given: Callable[[], Arguments] = tuple
    copies: Copies | None = None
    load: Load | None = None
    in_flight: bool = False
    lost: bool = False
    whole: bool = False
    last_error: str = ""

    def arguments(self) -> Arguments:
        """Return the arguments as they are when it is sent."""
        return self.given()

    def hear(self, reply: Any) -> None:
        """End the call with its reply, unless copies of what it wrote are waited for first."""
        if self.copies and reply == self.copies.written:
            return
        self.answer(reply)

    def answer(self, reply: Any) -> None:
        """End the call."""
        self.in_flight = False
        if not self.reply.done():
            self.reply.set_result(reply)

    def refuse(self, error: Exception) -> None:
        """Fail the call for good, unless it may have been carried out when it was sent before."""
        self.in_flight = False
        if isinstance(error, NoScriptError):
            self.whole = True
        elif self.lost:
            self.last_error = said(error)
            self.give_up()
        else:
            self.fail(error)

    def give_up(self) -> None:
        """Fail the call: uncertain if Redis may have carried it out, certain if not."""
        kind = ReplyLost if self.lost or self.in_flight else BrokerUnavailable
        self.fail(kind(f"redis did not confirm before the deadline ({self.last_error or 'no answer'})"))

    def gives_up(self, now: float) -> bool:
        """Fail the call if its time is up; tell whether it is."""
        if now < self.deadline:
            return False
        self.give_up()
        return True

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        if not self.reply.done():
            self.reply.set_exception(error)


class Command:
    """One command on the wire, and the calls that it carries: one, or several of a joint script to one queue."""

    __slots__ = ("calls", "size", "tasks")

    def __init__(self, call: Call) -> None:
        """Take the first call."""
        self.calls = [call]
        # Where nothing else may ride along, there is no room.
        self.tasks, self.size = call.load or (MOST_TASKS, MOST_BYTES)

    def takes(self, call: Call) -> bool:
        """Take another call along if both may share a command and there is room; tell whether it does."""
        if call.load is None:
            return False
        tasks, size = self.tasks + call.load.tasks, self.size + call.load.bytes
        if tasks > MOST_TASKS or size > MOST_BYTES:
            return False
        self.calls.append(call)
        self.tasks, self.size = tasks, size
        return True

    def packed(self) -> bytes:
        """Return it as it goes on the wire; a script itself only once Redis said that it has not got it."""
        first = self.calls[0]
        command, keys = first.command, first.keys
        arguments: list[str | bytes | int] = []
        for call in self.calls:
            arguments += call.arguments()
        if isinstance(command, str):
            return pack((command, *keys, *arguments))
        if any(call.whole for call in self.calls):
            return pack(("EVAL", command.source, len(keys), *keys, *arguments))
        return pack(("EVALSHA", command.sha, len(keys), *keys, *arguments))

    def hear(self, reply: Any) -> ResponseError | None:
        """Give each call its answer; return an error that will pass by itself, if one is among them."""
        # A refused command is the answer to every call that it carries.
        answers = [reply] * len(self.calls) if self.calls[0].load is None or isinstance(reply, ResponseError) else reply
        passing = None
        for call, answer in zip(self.calls, answers, strict=True):
            if not isinstance(answer, ResponseError):
                call.hear(answer)
            elif is_transient(answer):
                passing, call.in_flight = answer, False
            else:
                call.refuse(answer)
        return passing


class Trip:
    """What goes to Redis at once. Hears the replies in their order, and tells each call its own.

    ``copied``: the calls that wait for copies of what they write; behind the commands goes what waits for these.
    ``passing``: what was refused that will be accepted in a moment; ``confirmed``: what was said to the wait.
    """

    __slots__ = ("_commands", "_heard", "calls", "confirmed", "copied", "passing")

    def __init__(self, calls: Sequence[Call], copied: Sequence[Call]) -> None:
        """Take the calls, in the order in which they are to be carried out."""
        self.calls, self.copied = calls, copied
        self._commands, self._heard = together(calls), 0
        self.passing: ResponseError | None = None
        self.confirmed: list[Any] = []

    def packed(self, wait: Sequence[bytes]) -> bytes:
        """Return it as it goes on the wire, with ``wait`` behind it if there are copies to wait for."""
        return b"".join([*(command.packed() for command in self._commands), *wait])

    def hear(self, reply: Any) -> bool:
        """Take the next reply; tell whether it was the last one."""
        if self._heard < len(self._commands):
            self.passing = self._commands[self._heard].hear(reply) or self.passing
        else:
            self.confirmed.append(reply)
        self._heard += 1
        return self._heard == len(self._commands) + (WAIT_COMMANDS if self.copied else 0)


def bytes_in(calls: Sequence[Call]) -> int:
    """Return how many bytes of records these calls take along."""
    return sum(call.load.bytes for call in calls if call.load is not None)


def together(calls: Sequence[Call]) -> list[Command]:
    """Return what is sent for these calls; those that may share a command do, in their order."""
    made: list[Command] = []
    open_for: dict[tuple[Script | str, str], Command] = {}
    for call in calls:
        if call.load is None:
            made.append(Command(call))
            continue
        kind = call.command, call.keys[0]
        if kind not in open_for or not open_for[kind].takes(call):
            open_for[kind] = Command(call)
            made.append(open_for[kind])
    return made
