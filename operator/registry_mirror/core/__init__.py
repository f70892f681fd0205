"""The decisions of the program as pure functions: no cluster, no disk, no clock. See docs/architecture.md."""
