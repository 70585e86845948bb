"""From an archive to a registry: plan, compress, upload, tag."""
