"""Users in a test server that have the rights of their role and no more."""

from typing import Any, Final

from taskqueue.acl import ROLES, set_user
from tests.servers import RedisServer

PASSWORD: Final = "of-a-test"


def granted(server: RedisServer, role: str) -> str:
    """Make the user of this role, forget what was refused before, and return the server's URL for it."""
    client: Any = server.client()
    client.execute_command(*set_user(ROLES[role], role, PASSWORD, namespace="taskqueue").split(" "))
    client.execute_command("ACL", "LOG", "RESET")
    return server.url.replace("redis://", f"redis://{role}:{PASSWORD}@")


def refused(server: RedisServer) -> list[str]:
    """Return what was refused since, by command, key or channel."""
    client: Any = server.client()
    return [entry[b"object"].decode() for entry in map(_fields, client.execute_command("ACL", "LOG"))]


def _fields(entry: Any) -> dict[bytes, bytes]:
    return entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
