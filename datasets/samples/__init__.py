"""From a LogFrame to a Sample and a Batch."""
