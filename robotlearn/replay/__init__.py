"""The replay memory: all stored steps, and the batches that off-policy algorithms draw from them."""
