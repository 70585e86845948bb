"""The programs ``docker-credential-X``, which keep secrets in a keychain.

Protocol (docker-credential-helpers): the verb is the one argument, what it is about
comes on standard input, the answer and also the error messages on standard output. A
helper runs in a process group of its own, so that one that hangs goes away with all its
children, which might otherwise hold its pipes open for ever.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Mapping

from ..errors import HelperFailed, InvalidJSON, reason_of
from ..expressions import expression
from ..oci import optional, parse_json, require
from ..system.cancellation import Cancellation
from ..system.processes import kill_group
from ..values import value
from .identity import Credentials, Secret

_NOT_FOUND = "credentials not found in native keychain"
_TOKEN_USER = "<token>"
_SUFFIX = expression(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GLANCE = 0.2  # seconds between two looks at the cancellation


@value
class CredentialHelpers:
    """Runs helpers found on the PATH of *environ*, which is also theirs.

    *timeout* is what one call may take, in seconds. All methods raise HelperFailed,
    whose text says why and what to do, and Cancelled.
    """

    environ: Mapping[str, str]
    timeout: float = 30.0
    cancellation: Cancellation | None = None

    def get(self, suffix: str, server: str) -> Credentials | None:
        """What the helper keeps for *server*; None when it keeps nothing."""
        answer = self._run(suffix, "get", server.encode())
        if answer is None:
            return None
        try:
            record = require(parse_json(answer, "answer"), dict, "answer")
            username = optional(record, "Username", str, "answer") or ""
            secret = Secret(optional(record, "Secret", str, "answer") or "")
        except InvalidJSON:  # its text might quote the secret
            raise _failed(suffix, "get", "its answer is not valid") from None
        source = _program(suffix)
        if username == _TOKEN_USER:
            return Credentials(identity_token=secret, source=source)
        return Credentials(username, secret, source=source) if secret else None

    def store(self, suffix: str, server: str, username: str, secret: Secret) -> None:
        """Ask the helper to keep *secret* for *server*."""
        record = {
            "ServerURL": server,
            "Username": username,
            "Secret": secret.reveal(),
        }
        self._run(suffix, "store", json.dumps(record).encode(), secret)

    def erase(self, suffix: str, server: str) -> None:
        """Ask the helper to forget *server*, which it need not know."""
        self._run(suffix, "erase", server.encode())

    def _run(
        self, suffix: str, verb: str, given: bytes, secret: Secret | None = None
    ) -> bytes | None:
        """What the helper says; None when that is that it keeps nothing."""
        with self._start(suffix, verb) as process:
            try:
                out, err = self._communicate(process, given)
            except subprocess.TimeoutExpired as error:
                reason = (
                    f"no answer within {self.timeout:g} s; unlock its keychain, or use "
                    "dockerpush login, which needs no helper"
                )
                raise _failed(suffix, verb, reason) from error
            finally:
                if process.returncode is None:
                    kill_group(process)
        if process.returncode == 0:
            return out
        said = out.decode("utf-8", "replace").strip()
        if said == _NOT_FOUND:
            return None
        said = _presentable(said or err.decode("utf-8", "replace"), secret)
        raise _failed(suffix, verb, said or f"exit status {process.returncode}")

    def _start(self, suffix: str, verb: str) -> subprocess.Popen[bytes]:
        name = _program(suffix)
        safe = _SUFFIX.fullmatch(suffix) is not None
        program = shutil.which(name, path=self.environ.get("PATH")) if safe else None
        if program is None:
            raise HelperFailed(
                f"the credential helper {name} is not installed: install it, or take "
                "it out of the file that names it"
            )
        try:
            return subprocess.Popen(
                [program, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(self.environ),
                start_new_session=True,
            )
        except OSError as error:
            reason = f"it cannot be run: {reason_of(error)}"
            raise _failed(suffix, verb, reason) from error

    def _communicate(
        self, process: subprocess.Popen[bytes], given: bytes
    ) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + self.timeout
        first: bytes | None = given
        while True:
            left = deadline - time.monotonic()
            try:
                return process.communicate(first, timeout=max(0, min(left, _GLANCE)))
            except subprocess.TimeoutExpired:
                if left <= 0:
                    raise
            if self.cancellation is not None:
                self.cancellation.check()
            first = None  # it is on its way already


def _program(suffix: str) -> str:
    return f"docker-credential-{suffix}"


def _failed(suffix: str, verb: str, reason: str) -> HelperFailed:
    return HelperFailed(f"credential helper {_program(suffix)} {verb}: {reason}")


def _presentable(said: str, secret: Secret | None) -> str:
    """One short line of a message; nothing of what looks like an answer."""
    line = " ".join(said.split())
    if line.startswith("{"):
        return "it failed; its answer may hold a secret and is not shown"
    if secret:
        line = line.replace(secret.reveal(), "***")
    return line[:200]
