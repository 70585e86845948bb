"""One blob into a registry, with the fewest bytes sent."""
