"""A served arm's own machine, as in the tests of edges."""

from tests.edge.conftest import runtime

__all__ = ["runtime"]
