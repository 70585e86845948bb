"""The wire: one client per registry, and all that it needs to reach it."""
