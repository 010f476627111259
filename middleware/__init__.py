"""The doors: one module a framework, each importing only its own."""

# With the checkout's root on the path this folder could be imported as a second, global ``middleware``.
if __name__ != "taskqueue.middleware":
    raise ImportError(f"{__name__}: import taskqueue.middleware instead")
