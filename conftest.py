"""This file puts the root of the checkout on the import path: tests import ``tests.servers`` and the like."""
