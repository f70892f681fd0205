"""The node agent: makes a node as its NodeRegistryConfig says, and reports. Small imports: every node runs it."""
