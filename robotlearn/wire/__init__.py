"""The data plane: segments, records, messages, and the two ends that exchange them over ZeroMQ. No torch here."""
