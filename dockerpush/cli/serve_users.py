"""Who may use a registry that `serve` runs: its options, and its own files of users."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import UsageError
from . import console, prompts
from . import console as exits
from .endpoints import read_password_line


def add_user_options(parser: ArgumentParser) -> None:
    """Add the options of who may use the registry."""
    group = parser.add_argument_group(
        "users", "without a file of users everybody may pull, push and delete"
    )
    files = group.add_mutually_exclusive_group()
    files.add_argument(
        "--users", metavar="FILE", help="only for the users in FILE, see --add-user"
    )
    files.add_argument(
        "--htpasswd",
        "--auth-basic",
        metavar="FILE",
        help="only for the users in FILE, which htpasswd -B wrote (needs the package "
        "bcrypt)",
    )
    changes = group.add_mutually_exclusive_group()
    changes.add_argument(
        "--add-user",
        metavar="NAME",
        help="put NAME into --users FILE, with the password that is asked for, and end",
    )
    changes.add_argument(
        "--remove-user", metavar="NAME", help="take NAME out of --users FILE, and end"
    )
    group.add_argument(
        "--password-stdin",
        action="store_true",
        help="with --add-user: read the password from standard input",
    )


def changes_users(args: Namespace) -> bool:
    """True when a file of users is to be written, and nothing served.

    Raises UsageError for options that do not go together.
    """
    changing = args.add_user is not None or args.remove_user is not None
    if args.password_stdin and args.add_user is None:
        raise UsageError("--password-stdin goes with --add-user NAME only")
    if changing and not args.users:
        raise UsageError("--add-user and --remove-user need --users FILE")
    if changing and args.archives:
        raise UsageError(
            "--add-user and --remove-user serve nothing: leave ARCHIVE out"
        )
    return changing


def change_users(args: Namespace) -> int:
    """Add or remove one user; the exit code."""
    from ..server.users import put_user, remove_user

    path = Path(args.users)
    if args.add_user is None:
        remove_user(path, args.remove_user)
        done = f"removed user {args.remove_user!r} from {path}"
    else:
        known = put_user(path, args.add_user, _password(args))
        verb = "changed the password of" if known else "added"
        done = f"{verb} user {args.add_user!r} in {path}"
    if not args.quiet:
        console.say(f"{done}; a registry that runs reads the file when it starts again")
    return exits.DONE


def _password(args: Namespace) -> bytes:
    """Read once from standard input, or twice from the terminal. Raises UsageError."""
    if args.password_stdin:
        return read_password_line().encode()
    if not prompts.is_interactive():
        raise UsageError(
            "there is no terminal to ask for the password at: give --password-stdin"
        )
    password = prompts.ask_password(f"Password of {args.add_user}")
    if not password:
        raise UsageError("the password is empty; nothing was written")
    if prompts.ask_password("The same again") != password:
        raise UsageError("the two passwords differ; nothing was written")
    try:
        return password.encode()
    except UnicodeEncodeError as error:
        raise UsageError("the password is not UTF-8; nothing was written") from error
