"""The work that every contender does, and where: one task is one POST with a body and six headers.

The body has 1 KiB, or as many as BENCH_KIB says.
"""

import os
from typing import Final

PATH: Final = "/reports/build"
KIB: Final = int(os.environ.get("BENCH_KIB", "1"))
BODY: Final = bytes(range(32, 96)) * 16 * KIB
HEADERS: Final = {
    "Content-Type": "application/octet-stream",
    "Accept": "application/json",
    "Accept-Language": "en-GB,en;q=0.8",
    "X-Request-Id": "0b5c1a52-6f0e-4d1a-9a53-0f4b1f4c7a11",
    "X-Tenant": "example",
    "X-Origin": "benchmark",
}
SECRET: Final = "benchmarks-only-0123456789-abcdefghijklmnop"
CONCURRENT: Final = 100
BULK: Final = 1000


def redis_url() -> str:
    """Return where this process finds Redis."""
    return os.environ["BENCH_REDIS"]


def target() -> str:
    """Return the address that replays and peers send their requests to."""
    return os.environ["BENCH_TARGET"]


def count_file() -> str:
    """Return the file in which an application called in process counts; empty if there is none."""
    return os.environ.get("BENCH_COUNT", "")


def environment(*, redis: str, target: str = "", count: str = "", kib: int = 1, root: str) -> dict[str, str]:
    """Return the environment of a process that takes part."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TASKQUEUE_")},
        "PYTHONPATH": root,
        "BENCH_REDIS": redis,
        "BENCH_TARGET": target,
        "BENCH_COUNT": count,
        "BENCH_KIB": str(kib),
        "TASKQUEUE_URL": redis,
        "TASKQUEUE_SECRET": SECRET,
    }
