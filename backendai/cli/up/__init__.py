"""`backendai up`: databases, gateway and one agent as one supervised tree."""
