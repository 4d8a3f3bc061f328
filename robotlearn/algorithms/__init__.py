"""Algorithms: what turns experience into better weights."""
