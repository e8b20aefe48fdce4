"""Self-hosted, multi-tenant compute sessions behind the Backend.AI client API."""

__version__ = "0.1.0"
