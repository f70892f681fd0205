"""The real control plane for tests and for the demo: obtaining, starting and stopping it."""
