"""A real Plone site, its tasks and its consumers. Needs an environment of its own: ``make test-plone``."""

from typing import Final

LEDGER: Final = "ledger.jsonl"
"""What tasks have done, a line for each."""
