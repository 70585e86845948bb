"""Who we are at a registry, and where that is kept."""
