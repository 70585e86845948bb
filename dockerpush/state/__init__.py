"""The state directory: everything in it but the credentials may be lost."""
