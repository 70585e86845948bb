"""The embedded registry, on the standard library's HTTP server."""
