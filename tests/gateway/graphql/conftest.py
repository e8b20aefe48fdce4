"""Fixtures of the GraphQL tests; what they are made of is in ``graphql_place``."""

from graphql_place import ask, directory, place

__all__ = ["ask", "directory", "place"]
