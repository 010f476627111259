"""Be the consumer of a contender until killed: ``python -m benchmarks.consume NAME LIMIT VARIANT``."""

import sys

from .contender import load

if __name__ == "__main__":
    name, limit, variant = sys.argv[1:]
    load(name).consume(int(limit), variant)
