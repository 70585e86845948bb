"""What ``--help`` prints: an overview of the commands, and a page for each of them.

A page fits two screens. The options for connections, credentials and tuning are on the
page of ``--help-all``.
"""

from __future__ import annotations

import textwrap
from argparse import SUPPRESS, Action, ArgumentParser, _ArgumentGroup
from typing import Iterator, Mapping, NamedTuple, Sequence

from .options import ADVANCED

WIDTH = 80
INDENT = 26
"""Columns before the text about an option."""


class HelpPage(NamedTuple):
    """What a command is for. *needs* names the argument that it cannot do without."""

    usage: str
    needs: str
    text: str
    examples: tuple[str, ...]


_TITLES = {"positional arguments": "arguments", "optional arguments": "options"}

GROUPS: Mapping[str, tuple[str, ...]] = {
    "images": (*("push", "pull", "copy", "sync", "save", "load", "inspect", "verify"),),
    "registries": (
        *("login", "logout", "repos", "tags", "digest", "tag", "delete", "check"),
    ),
    "air gap": ("images", "inventory", "serve"),
    "this machine": ("cache", "config", "completion", "help", "version"),
}

PAGES: Mapping[str, HelpPage] = {
    "push": HelpPage(
        "ARCHIVE [ARCHIVE ...] -t REGISTRY/REPO:TAG [options]",
        "an archive",
        "Push an archive to a registry. Layers are compressed on the "
        "way. Only what the registry lacks is sent. The tag is "
        "written last.",
        (
            "push image.tar -t REGISTRY/REPO:TAG",
            "push image.tar --registry REGISTRY/TEAM --all-tags",
            "push amd64.tar arm64.tar -t REGISTRY/REPO:TAG",
            "push app:1 --runtime docker -t REGISTRY/REPO:TAG",
            "push image.tar -t REGISTRY/REPO:TAG --dry-run",
        ),
    ),
    "pull": HelpPage(
        "REF [REF ...] [-o FILE] [options]",
        "an image",
        "Pull images into the cache of this machine, and with -o also "
        "into one archive or OCI directory. Blobs that are in the "
        "cache are not downloaded again.",
        (
            "pull REGISTRY/REPO:TAG",
            "pull REGISTRY/REPO:TAG -o image.tar",
            "pull REGISTRY/REPO:TAG OTHER/REPO:TAG -o images.oci",
            "pull REGISTRY/REPO:TAG -o image.tar --platform linux/arm64",
            "pull REGISTRY/REPO:TAG -o image.tar --split dvd",
        ),
    ),
    "copy": HelpPage(
        "SRC DST [options]",
        "a source and a destination",
        "Copy an image between registries, archives and OCI "
        "directories. The digest stays the same, unless --platform "
        "selects a part of the image.",
        (
            "copy docker.io/library/alpine:3 REGISTRY/alpine:3",
            "copy REGISTRY/REPO:TAG oci:DIR",
            "copy --all-tags OLD/REPO NEW/REPO",
            "copy docker-archive:image.tar REGISTRY/REPO:TAG",
        ),
    ),
    "sync": HelpPage(
        "FILE [DST] [options]",
        "a list",
        "Copy the images of a list, many at a time. Images that the "
        "target already has are skipped. Either side can be an OCI "
        "directory.",
        (
            "sync images.txt REGISTRY/mirror",
            "sync images.txt REGISTRY/mirror --dry-run",
            "sync images.txt oci:/media/disk",
            "sync oci:/media/disk REGISTRY/mirror",
        ),
    ),
    "inspect": HelpPage(
        "SOURCE [SOURCE ...] [options]",
        "an archive or an image",
        "Show what an archive holds, or an image of a registry: platforms, layers, "
        "configuration. No layer of a registry is downloaded.",
        (
            "inspect image.tar",
            "inspect REGISTRY/REPO:TAG",
            "inspect REGISTRY/REPO:TAG --format images.0.env",
            "inspect REGISTRY/REPO:TAG --image-config --platform linux/arm64",
        ),
    ),
    "verify": HelpPage(
        "SOURCE [WHERE] [options]",
        "an archive or a list",
        "Prove that an archive or a directory is whole, or that a registry holds what "
        "an archive or a list names. Everything is read, nothing is written.",
        (
            "verify image.tar REGISTRY/REPO:TAG",
            "verify /media/disk",
            "verify images.txt oci:/media/disk",
            "verify images.txt REGISTRY/PREFIX",
        ),
    ),
    "login": HelpPage(
        "[REGISTRY] [options]",
        "",
        "Check a username and a password at a registry, and keep them in the state "
        "directory for later commands.",
        (
            "login REGISTRY",
            "login REGISTRY -u alice --password-stdin",
            "login REGISTRY --get-login",
        ),
    ),
    "logout": HelpPage(
        "[REGISTRY] [options]",
        "",
        "Forget the password that login kept. Credentials of docker and podman stay.",
        ("logout REGISTRY", "logout --all", "logout REGISTRY --authfile auth.json"),
    ),
    "tags": HelpPage(
        "REPOSITORY [REPOSITORY ...] [options]",
        "a repository",
        "List the tags of a repository, one a line, in the order of the registry.",
        (
            "tags REGISTRY/REPO",
            "tags REGISTRY/REPO --include '1\\..*' --limit 10",
            "tags REGISTRY/REPO OTHER/REPO --json",
        ),
    ),
    "repos": HelpPage(
        "REGISTRY[/PREFIX] [options]",
        "a registry",
        "List the repositories of a registry, one a line. Many "
        "registries, such as Docker Hub and ghcr.io, do not offer "
        "this list.",
        (
            "repos REGISTRY",
            "repos REGISTRY/TEAM --full-ref",
            "repos REGISTRY --json",
        ),
    ),
    "tag": HelpPage(
        "REF NEW [NEW ...] [options]",
        "an image and a new name",
        "Give an image more names in its registry: tags in the same "
        "repository, or names in other repositories. Blobs move only if the "
        "registry does not mount them.",
        (
            "tag REGISTRY/REPO:1.4 stable 1",
            "tag REGISTRY/REPO@sha256:DIGEST restored",
            "tag REGISTRY/REPO:1.4 REGISTRY/OTHER",
        ),
    ),
    "delete": HelpPage(
        "REF [REF ...] [options]",
        "a tag or a digest",
        "Delete tags of a registry. If it deletes no tag alone, the image goes too, "
        "unless another tag or an index needs it.",
        (
            "delete REGISTRY/REPO:TAG",
            "delete REGISTRY/REPO:1 REGISTRY/REPO:2 --yes",
            "delete REGISTRY/REPO:TAG --digest --dry-run",
        ),
    ),
    "digest": HelpPage(
        "REF [REF ...] [options]",
        "an image",
        "Show the digest that a tag points to now, without fetching the image.",
        (
            "digest REGISTRY/REPO:TAG",
            "digest REGISTRY/REPO:TAG --platform linux/arm64",
            "digest REGISTRY/REPO:TAG --full-ref",
        ),
    ),
    "check": HelpPage(
        "REGISTRY[/REPO] [options]",
        "a registry",
        "Try step by step what a push needs: proxy, name, TLS, "
        "credentials, the right to push. Nothing stays in the "
        "registry.",
        ("check REGISTRY", "check REGISTRY/REPO", "check REGISTRY/REPO --json"),
    ),
    "inventory": HelpPage(
        "SOURCE [REPO ...] [options]",
        "a registry, a directory or an archive",
        "Print what a registry, an OCI directory or archive holds, as one JSON "
        "document, so that --have of sync, copy and pull can leave it out.",
        (
            "inventory REGISTRY > have.json",
            "inventory REGISTRY/PREFIX --list images.txt > have.json",
            "inventory oci:DIR > have.json",
        ),
    ),
    "images": HelpPage(
        "FILE [FILE ...] [options]",
        "a file",
        "List the images that Kubernetes manifests, Helm or Kustomize output, Compose "
        "files and other texts name, each once: a list for sync.",
        (
            "images deployment.yaml",
            "images compose.yaml chart.yaml --json",
            "images notes.txt --text",
        ),
    ),
    "save": HelpPage(
        "[IMAGE ...] [options]",
        "",
        "Save images of docker, nerdctl or podman as tar archives. Without IMAGE, "
        "a list is shown to choose from.",
        (
            "save app:1",
            "save app:1 db:2 -o images.tar",
            "save app:1 --runtime podman --output-dir /tmp",
        ),
    ),
    "load": HelpPage(
        "ARCHIVE|REF [options]",
        "an archive or an image",
        "Load an archive, or an image of the cache or of a registry, "
        "into docker, podman or nerdctl. The image goes through a "
        "pipe, not through a file.",
        (
            "load image.tar",
            "load REGISTRY/REPO:TAG --runtime podman",
            "load oci:DIR:app --name app:1",
            "load image.tar.gz",
        ),
    ),
    "serve": HelpPage(
        "[ARCHIVE ...] [options]",
        "",
        "Run a registry on this machine until Ctrl-C. It keeps what "
        "you push in a directory, and serves archives as they are.",
        (
            "serve",
            "serve image.tar --read-only",
            "serve --addr 0.0.0.0 --users users.json",
        ),
    ),
    "cache": HelpPage(
        "{ls,verify,prune,rm} [REF ...] [options]",
        "an action: ls, verify, prune or rm",
        "List the images that pull keeps on this machine, check every "
        "blob, or remove what you no longer need.",
        (
            "cache ls",
            "cache prune --keep-since 30d --max-size 20GiB",
            "cache rm REGISTRY/REPO:TAG",
        ),
    ),
    "config": HelpPage(
        "[REGISTRY] [options]",
        "",
        "Show the settings in force, and where each came from: option, variable, "
        "config.json, default.",
        ("config", "config REGISTRY", "config REGISTRY --json"),
    ),
    "completion": HelpPage(
        "{bash,zsh,fish}",
        "a shell: bash, zsh or fish",
        "Print a script that completes command lines in a shell.",
        (
            "completion bash > dockerpush.bash",
            "completion zsh > ~/.zfunc/_dockerpush",
            "completion fish > dockerpush.fish",
        ),
    ),
    "help": HelpPage(
        "[COMMAND]", "", "Show all commands, or how to use one.", ("help", "help push")
    ),
    "version": HelpPage("", "", "Show the version.", ("version",)),
}


def overview(commands: Mapping[str, str]) -> str:
    """All *commands*, in groups, a line each."""
    lines = ["Push, pull, copy and mirror container images, without a daemon.", ""]
    lines += ["Usage: dockerpush COMMAND [options]", "", "Examples:"]
    firsts = (PAGES[name].examples[0] for name in ("push", "pull", "copy"))
    lines += [f"  dockerpush {first}" for first in firsts]
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12}{commands[name]}" for name in names]
    lines += ["", "Help on one command: dockerpush help COMMAND"]
    return "\n".join(lines) + "\n"


def page(command: str, parser: ArgumentParser, *, everything: bool) -> str:
    """How to use *command*; its advanced options only with *everything*."""
    about = PAGES[command]
    lines = [f"Usage: dockerpush {command} {about.usage}".rstrip(), ""]
    lines += textwrap.wrap(about.text, WIDTH)
    lines += ["", "Examples:", *(f"  dockerpush {one}" for one in about.examples)]
    hidden = False
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != SUPPRESS]
        if group.title in ADVANCED and not everything:
            hidden = hidden or bool(actions)
        elif actions:
            lines += ["", *_section(group, actions)]
    if hidden:
        lines += ["", f"All options: dockerpush {command} --help-all"]
    return "\n".join(lines) + "\n"


def needed(command: str) -> str:
    """What *command* was not given, and an example that gives it."""
    about = PAGES[command]
    return f"{command} needs {about.needs}: dockerpush {about.examples[0]}"


def _section(group: _ArgumentGroup, actions: Sequence[Action]) -> Iterator[str]:
    title = _TITLES.get(group.title or "", group.title or "")
    about = f" ({group.description})" if group.description else ""
    yield f"{title[:1].upper()}{title[1:]}{about}:"
    for action in actions:
        yield from _option(action)


def _option(action: Action) -> Iterator[str]:
    names = f"  {_names(action)}"
    text = textwrap.wrap(action.help or "", WIDTH - INDENT)
    if len(names) > INDENT - 2:
        yield names
    else:
        yield f"{names:<{INDENT}}{text.pop(0) if text else ''}".rstrip()
    yield from (" " * INDENT + line for line in text)


def _names(action: Action) -> str:
    """``-t, --target REF``: the short name, the long one, and the value."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    short = [name for name in action.option_strings if not name.startswith("--")][:1]
    long = [name for name in action.option_strings if name.startswith("--")][:1]
    value = "" if action.nargs == 0 else f" {value_of(action)}"
    return ", ".join(short + long) + value


def value_of(action: Action) -> str:
    """What stands for the value of *action*: a word, or the choices."""
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper().replace("_", "-")
