"""The embedded registry: the OCI distribution-spec 1.1 on the standard library."""

from .errors import ServerError
from .handler import Served
from .registry import Registry
from .serving import RegistryServer
from .sources import ReadOnlySource, SourceBlob
from .storage import RawManifest

__all__ = [
    "RawManifest",
    "ReadOnlySource",
    "Registry",
    "RegistryServer",
    "Served",
    "ServerError",
    "SourceBlob",
]
