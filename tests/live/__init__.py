"""Drives a real `backendai up` from outside: the tests of whole products and the bench share it."""
