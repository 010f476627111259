"""The two commands: ``taskqueue-server`` consumes, ``taskqueue`` is for what a person wants to know or do.

Options come from ``settings``, so that a flag, its variable and its key are one thing with one check. Standard output
holds nothing but what was asked for; all else goes to standard error. The exit code is one that a process manager can
act on: a wrong setting (2, 3, 78) will be wrong again, anything else is worth another start.
"""

import asyncio
import inspect
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console

from . import (
    act_commands,
    add_commands,
    catalogue,
    check_commands,
    doctor,
    logs,
    loop,
    manual_commands,
    query_commands,
    queue_commands,
    relaying,
    route_commands,
    settings,
    settings_commands,
    task_commands,
    watch_commands,
)
from .asking import CONFIG_FLAG, example
from .broker import masked, require_shared
from .catalogue import Row, Settings
from .durability import kept
from .errors import AppNotFound, BrokerUnavailable, ConfigError, Fenced, NameInUse, TaskQueueError, UsageError
from .inspector import StoreInfo
from .producer import TaskQueue
from .relay import Relay
from .routes import table_of, with_ruled
from .settings import WorkerPlace

log = logging.getLogger("taskqueue.cli")

# Seconds that the store has to introduce itself.
GREETING: Final = 1.0
# The first that fits counts. 0 is done; 1 an error that nobody expected, logged with its traceback.
EXIT_CODES: Final[Mapping[type[TaskQueueError], int]] = {
    UsageError: 2,
    AppNotFound: 3,
    BrokerUnavailable: 75,
    NameInUse: 69,
    Fenced: 75,
    ConfigError: 78,
    TaskQueueError: 1,
}

# As of a command that SIGPIPE has ended.
READ_NO_FURTHER: Final = 128 + 13

# Seconds for a thread that has nothing left to do.
THREAD_END: Final = 1.0


def _version() -> str:
    from .replay import VERSION  # noqa: PLC0415  brings the HTTP client, which no other command needs

    return VERSION


server_app: Final = App(
    name="taskqueue-server",
    help="Take requests off the queues and replay them against the application.\n\nEvery option has a variable (in"
    " brackets) and a key in taskqueue.toml too; flag wins over variable, variable over file, file over default. The"
    " secret comes from TASKQUEUE_SECRET or from a file: a flag would show it in the process list.",
    help_epilogue=example(
        "taskqueue-server --name=instance1",
        "taskqueue-server --name=instance1 --target http://127.0.0.1:8000 --url redis://127.0.0.1:6379/0",
    ),
    help_format="plaintext",
    version=_version,
)
app: Final = App(
    name="taskqueue",
    help="Look after queues and settings.",
    help_epilogue=example("taskqueue secret", "taskqueue config show"),
    help_format="plaintext",
    version=_version,
)
for module in (
    query_commands,
    add_commands,
    task_commands,
    act_commands,
    watch_commands,
    queue_commands,
    route_commands,
    manual_commands,
    check_commands,
    settings_commands,
    relaying,
):
    module.register(app)


@app.command(help_epilogue=example('eval "$(taskqueue completion bash)"', "taskqueue completion fish"))
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which one reads it.")], /) -> None:
    """Print what lets a shell complete both programs; for its start-up file, zsh after compinit."""

    def options(**_: object) -> None: ...

    vars(options)["__signature__"] = inspect.Signature(list(_server_parameters(completing=True)))
    server = App(name=server_app.name, help=server_app.help, help_format="plaintext", version=_version)
    server.default(options)
    for program in (app, server):
        print(program.generate_completion(shell=shell))
        if shell == "zsh":
            (name,) = program.name
            print(f"compdef _cyclopts_{name} {name}")


def server_main() -> None:
    """Run ``taskqueue-server`` with the arguments of this process, and exit."""
    code = run(server_app, sys.argv[1:])
    _leave_threads_behind(code)
    sys.exit(code)


def _leave_threads_behind(code: int) -> None:
    """Exit at once if a WSGI application still works in a thread: its task was given back and may run elsewhere."""
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in threads:
        if not thread.daemon:
            thread.join(THREAD_END)
            if thread.is_alive():
                log.warning("left before the application did: thread %s still works", thread.name)
                logging.shutdown()
                os._exit(code)


def main() -> None:
    """Run ``taskqueue`` with the arguments of this process, and exit."""
    # What a server says of its store at every start would be noise in front of every answer.
    logging.getLogger("taskqueue.brokers").setLevel(logging.ERROR)
    try:
        code = run(app, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads this has read enough, as ``head`` does; the interpreter must not try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = READ_NO_FURTHER
    sys.exit(code)


def run(command: App, arguments: Sequence[str]) -> int:
    """Run one of the two commands and return its exit code; errors are told on standard error."""
    if not sys.stdout.isatty():
        command.help_formatter, command.console = "plain", Console(width=1000)  # one line an option
    try:
        code = command(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _told(command, UsageError(f"{str(error).strip()} See {command.name[0]} --help"))
    except TaskQueueError as error:
        return _told(command, error)
    return code or 0


def _told(command: App, error: TaskQueueError) -> int:
    print(f"{command.name[0]}: {error}", file=sys.stderr)
    return exit_code(error)


def exit_code(error: TaskQueueError) -> int:
    """Return the exit code for an error that ends a command."""
    return next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind))


# taskqueue-server


def serve(**flags: Any) -> int:
    """Consume until a signal says stop; return the exit code."""
    config = flags.pop("config", None)
    chosen = settings.load(flags, config=config)
    chosen.required_name()
    chosen.required_target()
    chosen.check_together()
    place = settings.worker_place()
    if place is not None:
        chosen = chosen.of_worker(place.number)
    style = settings.log_style(chosen, sys.stderr)
    handler = logs.setup(style, chosen.log_level, colour=settings.colours(sys.stderr))
    if place is not None:
        handler.addFilter(logs.fields(consumer=chosen.name))
    if chosen.app:
        settings.announce(dev=chosen.dev, config=config)
    try:
        if chosen.workers > 1:
            from . import life  # noqa: PLC0415  see _version

            return life.supervise(chosen)
        loop.run(_consume(chosen, style, handler, place))
    except TaskQueueError as error:
        log.critical("%s%s", error, _advice(error, chosen), exc_info=error.__cause__ if chosen.app else None)
        return exit_code(error)
    return 0


def _server_parameters(*, completing: bool = False) -> Iterator[inspect.Parameter]:
    """Yield one keyword for each setting that has a flag; its text is left to the settings' own checks.

    ``completing``: for a shell, to which a flag that may also be None would seem to want a value. Where an application
    has imported pydantic, cyclopts has it check the type, to which it must be allowed.
    """
    for row in catalogue.table():
        if row.flag:
            kind = list[str] if isinstance(row.default, tuple) else bool if isinstance(row.default, bool) else str
            yield _keyword(row, kind, kind if kind is bool and completing else kind | None)
    annotation = Annotated[str | None, CONFIG_FLAG]
    yield inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _keyword(row: Row, kind: Any, annotation: Any) -> inspect.Parameter:
    default = ", ".join(row.default) if isinstance(row.default, tuple) else row.default
    about = f"{row.help} [{row.variable}]" + ("" if default is None or kind is bool else f" (default: {default})")
    if kind is bool:
        parameter = Parameter(name=row.flag.replace("--no-", "--"), negative=row.flag, help=about)
    else:
        written = _as_written if kind is str else _all_as_written
        parameter = Parameter(name=row.flag, negative=(), help=about, converter=written)
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, parameter]
    )


def _as_written(_kind: object, tokens: Sequence[cyclopts.Token]) -> str | list[str]:
    values = [token.value for token in tokens]
    return values[0] if len(values) == 1 else values


def _all_as_written(_kind: object, tokens: Sequence[cyclopts.Token]) -> list[str]:
    # A list also of one: where an application has imported pydantic, cyclopts has it check the type.
    return [token.value for token in tokens]


vars(serve)["__signature__"] = inspect.Signature(list(_server_parameters()))
server_app.default(serve)


async def _server(chosen: Settings, place: WorkerPlace | None) -> tuple[Any, TaskQueue]:
    """Return the server for these settings, and its TaskQueue, which with an application is the application's."""
    async with AsyncExitStack() as opened:
        made = await _made(chosen, place, opened)
        opened.pop_all()  # whoever runs it closes it
    return made


async def _made(chosen: Settings, place: WorkerPlace | None, opened: AsyncExitStack) -> tuple[Any, TaskQueue]:
    from . import assembly, life, loading  # noqa: PLC0415  see _version
    from .unserved import Unserved  # noqa: PLC0415  see _version

    queues: Sequence[str]
    own = chosen.origin("queues") == "flag" or chosen.limit is not None
    if chosen.app:
        application = await loading.load(chosen.app)
        tq = loading.task_queue()
        opened.push_async_callback(tq.aclose)
        wanted = chosen.queues if chosen.origin("queues") == "flag" else None
        await tq.try_routes(patience=GREETING)
        queues = assembly.narrowed(tq, wanted, where="--queue")
        replayer = loading.replayer_for(application, tq.keyring, concurrent_limit=chosen.concurrent_limit)
    else:
        from .replay import HttpReplayer  # noqa: PLC0415  see _version

        url, queues = chosen.required_url(), chosen.queues
        require_shared(url, "give --app instead of --target, or run a TaskQueueServer inside the application")
        tq = TaskQueue(
            url,
            secret=chosen.secrets,
            queues=queues,
            namespace=chosen.namespace,
            durability=chosen.durability,
            storage=chosen.storage,
        )
        opened.push_async_callback(tq.aclose)
        if not own:
            known = await tq.try_routes(patience=GREETING)
            queues = with_ruled(queues, replace(known, file=table_of(chosen.routes)))
        replayer = HttpReplayer(chosen.required_target(), tq.keyring, connect_timeout=chosen.connect_timeout)
    around = life.around(chosen, tq.broker, queues, place)
    if not own:
        around["companions"] = [*around["companions"], Unserved(tq.broker, queues).watch]
    return assembly.server_for(chosen, tq, replayer, name=chosen.required_name(), queues=queues, **around), tq


async def _consume(chosen: Settings, style: str, handler: logging.Handler, place: WorkerPlace | None) -> None:
    """Run the server; the first signal lets running tasks end, a second one gives them back at once."""
    server, tq = await _server(chosen, place)
    owner = relaying.owner("relay", chosen.relay) if chosen.relay else tq
    logs.keep(handler)
    relays = [Relay(outbox, owner.broker, poll_max=chosen.poll_max) for outbox in owner.outboxes]
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        server.stop(now=asked > 1)
        for relay in relays:
            relay.stop()

    on_signal = asyncio.get_running_loop().add_signal_handler
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        on_signal(number, stop)
    for number, act in (
        (signal.SIGUSR2, server.pause),
        (signal.SIGCONT, server.resume),
        (signal.SIGUSR1, server.report),
    ):
        on_signal(number, act)
    try:
        store = await _asked(tq)
        _announce(chosen, tq, store, server.queues, style)
        for finding in doctor.check_durability(store, tq.durability) if store else ():
            if finding.level != "ok":
                log.warning("%s; %s", finding.what, finding.remedy)
        loop.settled_in()
        async with relaying.beside(relays, owner):
            await server.run()
    finally:
        await tq.aclose()


async def _asked(tq: TaskQueue) -> StoreInfo | None:
    """Return what the store says of itself, or None if it does not at once: the server waits for it, and tells why."""
    try:
        return await tq.broker.inspector.store(deadline=time.monotonic() + GREETING)
    except (BrokerUnavailable, ConfigError):
        return None


def _announce(chosen: Settings, tq: TaskQueue, store: StoreInfo | None, queues: Sequence[str], style: str) -> None:
    """Say what starts: five lines for eyes, else one entry with the same fields."""
    product = f"{store.product} {store.version}" if store else "no answer yet"
    level = tq.durability or (kept(appendonly=store.appendonly, fsync=store.fsync) if store else None)
    durability = str(level or "unknown")
    about = {
        "target": chosen.app or chosen.public("target"),
        "broker": masked(tq.url),
        "store": product,
        "durability": durability,
        "queues": ", ".join(queues),
        "consumer": chosen.name,
        "concurrent_limit": chosen.concurrent_limit,
        "version": _version(),
        "pid": os.getpid(),
        "loop": loop.name(),
    }
    if style != "console":
        log.info("starting", extra=about)
    elif log.isEnabledFor(logging.INFO):
        limit = f"at most {chosen.concurrent_limit} at a time" if chosen.concurrent_limit else "without limit"
        about["broker"] = f"{about['broker']} ({product}, durability {durability})"
        about["consumer"] = f"{chosen.name}, {limit}"
        about["process"] = f"{about['pid']}, taskqueue {about['version']}, {about['loop']}"
        lines = (f"{label:<9} {about[label]}" for label in ("target", "broker", "queues", "consumer", "process"))
        print(*lines, sep="\n", file=sys.stderr)


def _advice(error: TaskQueueError, chosen: Settings) -> str:
    if isinstance(error, Fenced):
        return "; stop one of the two, or give this one another --name"
    if isinstance(error, BrokerUnavailable) and chosen.wait_broker is not None:
        return f"; given up after {chosen.wait_broker:g} s (--wait-broker)"
    return ""
