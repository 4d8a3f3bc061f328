"""The learner: gate, episodes, update loop, checkpoints, metrics."""
