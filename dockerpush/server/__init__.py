"""The embedded registry: the OCI distribution-spec 1.1 on the standard library."""

from .embedded import Registry
from .handler import Served
from .messages import ServerError
from .read_only import ReadOnlySource, SourceBlob
from .serving import RegistryServer
from .storage import ServedManifest

__all__ = [
    "ReadOnlySource",
    "Registry",
    "RegistryServer",
    "Served",
    "ServedManifest",
    "ServerError",
    "SourceBlob",
]
