"""``taskqueue-server``, where it is started by the path of its interpreter: ``python -m tests.plone.serve``."""

from taskqueue.cli import server_main

if __name__ == "__main__":
    server_main()
