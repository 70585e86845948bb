"""What the words of docker, podman, skopeo, crane, regctl and oras are called here."""

from __future__ import annotations

from typing import Mapping

COMMANDS: Mapping[str, str] = {
    "auth": "login",
    "catalog": "repos",
    "cp": "copy",
    "export": "pull",
    "import": "push",
    "list-tags": "tags",
    "ls": "tags",
    "manifest": "inspect --raw",
    "resolve": "digest",
    "rm": "delete",
    "rmi": "delete",
    "validate": "verify",
}
"""Their command → ours."""

SIDES: Mapping[str, str] = {"--from-": "--src-", "--to-": "--dest-"}
"""How oras begins the options for one side → how they begin here."""

_MOVES = "push pull copy sync"
_COPIES = "copy sync"

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "--all --multi-arch": {
        "pull": "; write --platform all",
        "push copy sync": ": every platform is taken anyway; leave it out",
    },
    "--all-tags -a": {
        "pull": "; for every tag: dockerpush copy --all-tags REPOSITORY oci:DIR"
    },
    "--arch --os --override-arch --override-os --override-variant": {
        _MOVES: "; write --platform OS/ARCH"
    },
    "--command-timeout": {_MOVES: "; write --deadline"},
    "--compression-format": {"push copy": "; write --compress"},
    "--dest --src -d -s": {"sync": "; write the list, then the target"},
    "--dest-compress-format": {_COPIES: "; write --recompress"},
    "--force -f": {"delete": "; write --yes"},
    "--image-refs": {"push pull copy": "; write --digestfile"},
    "--input -i": {"push load": "; write the archive without it"},
    "--insecure-policy": {"": ": dockerpush has no policy file; leave it out"},
    "--keep-going": {"sync": ": sync always continues; leave it out"},
    "--log-level --verbosity": {"": "; write --verbose or --debug"},
    "--no-tags -n": {"inspect": ": inspect lists no tags; leave it out"},
    "--output -o": {"copy": "; write the file as the second word"},
    "--preserve-digests": {_COPIES: ": copies keep every digest; leave it out"},
    "--recursive -r": {_COPIES: "; write --referrers"},
    "--remove-signatures": {
        _COPIES: ": signatures come only with --referrers; leave it out"
    },
    "--tag": {"push": "; write --target REGISTRY/REPO:TAG"},
    "--template -f": {"inspect": "; write --format PATH, such as images.0.env"},
}
"""Their options → command of ours, or "" for each → what to do."""


def advice(option: str, command: str) -> str:
    """What to do in place of *option*, which *command* does not know; or ""."""
    for names, texts in OPTIONS.items():
        if option in names.split():
            for commands, text in texts.items():
                if not commands or command in commands.split():
                    return text
    return ""
