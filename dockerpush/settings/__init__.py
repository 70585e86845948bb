"""What may be set: flags, variables and config.json, in one table."""
