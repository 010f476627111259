"""No queue, the limit of consumers: so many coroutines that send the request through one aiohttp session, for ever.

In uvloop where installed. The session as a careful user would set it: no cookies, no limit of connections.
"""

import asyncio

import aiohttp

from benchmarks import work
from benchmarks.contender import run


async def _send(session: aiohttp.ClientSession) -> None:
    while True:
        async with session.post(work.target() + work.PATH, data=work.BODY, headers=work.HEADERS) as response:
            await response.read()


async def _main(limit: int) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await asyncio.gather(*(_send(session) for _ in range(limit)))


def consume(limit: int, variant: str) -> None:
    """See Contender."""
    if variant != "http":
        raise ValueError(f"loop: knows no {variant}")
    run(_main(limit))


def producer() -> None:
    """See Contender."""
    raise NotImplementedError("loop queues nothing")
