"""Puts the root of the checkout on the import path, by standing there: tests import ``tests.servers`` and the like."""

pytest_plugins = ["pytester"]
