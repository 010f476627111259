"""A request-replay queue for web frameworks: add a request, commit, and it is replayed later as the same user."""
