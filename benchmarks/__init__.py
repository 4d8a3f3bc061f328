"""Benchmarks: each row is one figure beside a reference that was measured in the same run. They never assert."""
