"""Measures dockerpush beside its peers, and pushes beside the bare wire as well."""
