"""The log on disk and what is built on it: the edge's spool and the learner's store of segments. No torch here."""
