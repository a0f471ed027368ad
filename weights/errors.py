class CheckpointError(OSError):
    """A file of a checkpoint is missing, damaged or hostile; the message says which and what to do."""
