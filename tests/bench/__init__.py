"""Measures pushes: dockerpush beside its peers, and both beside the bare wire."""
