"""The command in the process of the tests, where another one proves nothing more."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
from typing import Callable, Iterator, Mapping, Sequence
from unittest import mock

from conftest import Finished

from dockerpush.cli.main import main


def run_here(words: Sequence[object], environment: Mapping[str, str]) -> Finished:
    """``dockerpush`` with *words*: it must end by itself, in whatever way."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**_trusted(), **environment}, clear=True),
        _as_it_was(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = int(str(ended.code))
    return Finished(code, out.getvalue(), err.getvalue(), 0)


def _trusted() -> dict[str, str]:
    """What the fixture `authorities` has set."""
    is_set = os.environ.get("DOCKERPUSH_TEST_WARM")
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR") if is_set else ()
    return {name: os.environ[name] for name in names if name in os.environ}


def checked(environment: Mapping[str, str], *before: object) -> Callable[..., Finished]:
    """Runs ``dockerpush`` with the words *before*, and those that it gets.

    It must end with *code*, and with one line of an error if that is not 0.
    """

    def run_it(*words: object, code: int = 0) -> Finished:
        done = run_here((*before, *words), environment)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("error: ") == (code != 0), done.stderr
        return done

    return run_it


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Give back what belongs to a whole process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    hook, logger = sys.excepthook, logging.getLogger("dockerpush")
    logged = (logger.propagate, logger.level, list(logger.handlers))
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)
        sys.excepthook = hook
        logger.propagate, logger.level, logger.handlers = logged
