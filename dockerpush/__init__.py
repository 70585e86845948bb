"""Push container images to registries: no daemon, flat memory, resumable."""

__version__ = "0.1.0"
