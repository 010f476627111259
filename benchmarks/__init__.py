"""Benchmarks: this project beside the limits of the machine and beside other queues, in one run on the same work.

``make bench`` runs them; docs/performance.md says how they measure and what came of it. Modules that run in the
environment of another queue (``work``, ``contender``, ``produce``, ``consume``, ``contenders``) need only the standard
library and that queue.
"""
