"""Fills a private registry: skopeo copies, this package says what, keeps archives, and looks afterwards."""
