"""The Open Inference Protocol in front of any scorer: server, batches, the life of the process."""
