"""How the peers send the request: one aiohttp session a process, the same for all of them."""

import aiohttp

from benchmarks import work


def session() -> aiohttp.ClientSession:
    """Return a session without cookies and without a limit of connections."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())


async def send(through: aiohttp.ClientSession, path: str, headers: dict[str, str], body: bytes) -> None:
    """Send it; raises ClientError unless the answer is a success."""
    async with through.post(work.target() + path, data=body, headers=headers, raise_for_status=True) as response:
        await response.read()
