"""The stores a queue can live in, one module each; ``taskqueue.broker.connect`` picks one by URL."""
