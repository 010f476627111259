"""``taskqueue doctor | acl``: whether everything stands as it should, and who may do what."""

import asyncio
import secrets
import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from . import doctor as checks
from .acl import ROLES, USER, default_user, set_user
from .asking import NOTHING, Common, as_json, complain, example, flag, known_routes, known_secrets, write_json
from .broker import connect
from .doctor import Finding
from .durability import durability
from .errors import ConfigError, UsageError
from .keys import Keyring
from .tables import COLOURS, aligned, printable
from .target import Limits


def register(app: App) -> None:
    """Add these commands to ``taskqueue``."""
    app.command(doctor, help_epilogue=example("taskqueue doctor --target http://127.0.0.1:8000"))
    app.command(acl, help_epilogue=example("taskqueue acl --role consumer --user instance1"))


def doctor(
    *,
    target: Annotated[str | None, flag("target")] = None,
    common: Common = NOTHING,
) -> int:
    """Look for what keeps tasks from running; exit code 1 if there is an error."""
    findings = asyncio.run(_examine(target, common))
    if common.as_json:
        write_json({"findings": as_json(findings)})
    else:
        _write_findings(findings)
    return 1 if any(finding.level == "error" for finding in findings) else 0


async def _examine(target: str | None, common: Common) -> list[Finding]:
    from . import probe  # noqa: PLC0415  brings the HTTP client, which no other command needs

    try:
        chosen = common.settings(target=target)
        url = checks.check_url(chosen)
        secret = checks.check_secret(known_secrets(chosen) if url.level == "ok" else chosen.secrets)
    except ConfigError as error:
        return [checks.of_error("settings", error, "taskqueue config show --origin")]
    findings = [url, secret]
    if url.level == "ok":
        broker = connect(chosen.required_url(), namespace=chosen.namespace)
        try:
            declared = durability(chosen.durability) if chosen.durability else None
            findings += await checks.examine(
                broker, chosen.queues, declared=declared, routes=lambda: known_routes(broker, chosen)
            )
        finally:
            await broker.aclose()
    if chosen.target is None:
        return [*findings, Finding("target", "ok", "not asked: none is set (--target)")]
    try:
        keyring = Keyring(known_secrets(chosen))
    except ConfigError:
        keyring = None  # That has been found above.
    return findings + await probe.examine(
        chosen.target, keyring, queue=chosen.queues[0], public_url=chosen.public_url, body_limit=Limits().body
    )


def acl(
    *,
    role: Annotated[str | None, Parameter(help=f"Only this role: {', '.join(ROLES)}.")] = None,
    user: Annotated[str | None, Parameter(help="The user's name, instead of the namespace and role.")] = None,
    common: Common = NOTHING,
) -> None:
    """Print the Redis commands that make a user for each role, with the least rights and a new password."""
    if role is not None and role not in ROLES:
        raise UsageError(f"--role: {role!r} is none; the roles are {', '.join(ROLES)}")
    if user is not None and (role is None or not USER.fullmatch(user)):
        raise UsageError(f"--user: {user!r} must be 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and --role be given")
    chosen = common.settings()
    queues = chosen.queues if common.queues else ()
    users = []
    for name in [role] if role else ROLES:
        about = {"role": name, "user": user or default_user(chosen.namespace, name), "password": secrets.token_hex(32)}
        command = set_user(ROLES[name], about["user"], about["password"], namespace=chosen.namespace, queues=queues)
        users.append({**about, "for": ROLES[name].help, "command": command})
    if common.as_json:
        write_json({"users": users})
        return
    print(*(one["command"] for one in users), sep="\n")
    complain("the passwords are new; each belongs into its user's URL: redis://USER:PASSWORD@host:port/db")


def _write_findings(findings: Sequence[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    lines = aligned([(finding.level, finding.check, printable(finding.what)) for finding in findings])
    for finding, line in zip(findings, lines, strict=True):
        console.print(line, style=COLOURS[finding.level] if sys.stdout.isatty() else None)
        if finding.remedy:
            console.print(f"{'':<9}remedy: {printable(finding.remedy)}")
