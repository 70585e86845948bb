"""A terminal's screen, as far as dockerpush uses one: what is seen of what it wrote.

It knows line feed, carriage return, cursor up, erase to the end of the line and of the
screen, and automatic wrapping with its switch; any other command is an error. When its
size changes it does what most terminals do (wraps its lines to the new width, the
cursor stays in its text), or what xterm does (cuts them off).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMMAND = re.compile(r"\x1b\[(\??)(\d*)([A-Za-z])")


@dataclass
class Row:
    """A row of cells; one that is *wrapped* goes on in the next row."""

    text: str = ""
    wrapped: bool = False


@dataclass(frozen=True)
class Frame:
    """What was drawn with wrapping off: lines, in a window of so many columns.

    *cut* are characters for which the window had no column.
    """

    columns: int
    lines: tuple[str, ...]
    cut: int
    above: tuple[str, ...]


class Screen:
    """A window of *columns* and *rows*, and what scrolled out of it."""

    def __init__(self, columns: int, rows: int = 24, *, reflows: bool = True) -> None:
        self.columns = columns
        self.rows = rows
        self.frames: list[Frame] = []
        self._reflows = reflows
        self._cells = [Row()]
        self._line = self._column = self._top = 0
        self._wraps = True
        self._cut = 0
        self._held = ""

    @property
    def text(self) -> list[str]:
        """Every line from the first on, whole also where it is wrapped."""
        lines = [text.rstrip() for text, _ in self._logical()]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def feed(self, data: str) -> None:
        """Take what was written; the rest of a command may come later."""
        data, self._held = self._held + data, ""
        position = 0
        while position < len(data):
            found = COMMAND.match(data, position)
            if found:
                self._command(*found.groups())
                position = found.end()
            elif data[position] == "\x1b":
                assert len(data) - position < 8, repr(data[position:][:20])
                self._held = data[position:]
                return
            else:
                self._character(data[position])
                position += 1

    def resize(self, columns: int) -> None:
        """Have *columns* from now on."""
        if self._reflows:
            self._wrap_to(columns)
        else:
            for row in self._cells:
                row.text = row.text[:columns]
            self._column = min(self._column, columns - 1)
        self.columns = columns
        self._top = max(0, self._line - self.rows + 1)

    def _logical(self) -> list[tuple[str, int | None]]:
        """Lines as they were before they were wrapped; where the cursor is in each."""
        lines: list[tuple[str, int | None]] = []
        text, cursor = "", None
        for number, row in enumerate(self._cells):
            if number == self._line:
                cursor = len(text) + self._column
            text += row.text
            if not row.wrapped:
                lines.append((text, cursor))
                text, cursor = "", None
        return lines

    def _wrap_to(self, columns: int) -> None:
        cells: list[Row] = []
        for text, cursor in self._logical():
            length = max(len(text), 1, 0 if cursor is None else cursor + 1)
            if cursor is not None:
                self._line, self._column = divmod(cursor, columns)
                self._line += len(cells)
            starts = range(0, length, columns)
            cells += [Row(text[at : at + columns], wrapped=True) for at in starts]
            cells[-1].wrapped = False
        self._cells = cells

    def _character(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), repr(character)
            self._put(character)

    def _put(self, character: str) -> None:
        if self._column >= self.columns:
            if not self._wraps:
                self._cut += 1
                return
            self._cells[self._line].wrapped = True
            self._column = 0
            self._down()
        row, at = self._cells[self._line], self._column
        row.text = row.text[:at].ljust(at) + character + row.text[at + 1 :]
        self._column += 1

    def _down(self) -> None:
        self._line += 1
        if self._line == len(self._cells):
            self._cells.append(Row())
        self._top = max(self._top, self._line - self.rows + 1)

    def _command(self, private: str, number: str, kind: str) -> None:
        if private:
            assert number == "7", f"mode {number}"
            self._set_wrapping(on=kind == "h")
        elif kind == "A":
            self._line = max(self._top, self._line - int(number or 1))
        elif kind in "KJ":
            assert number in ("", "0")
            row = self._cells[self._line]
            row.text, row.wrapped = row.text[: self._column], False
            if kind == "J":
                del self._cells[self._line + 1 :]
        else:
            raise AssertionError(f"unknown: ESC [ {number} {kind}")

    def _set_wrapping(self, *, on: bool) -> None:
        self._wraps = on
        if on:
            lines = [row.text.rstrip() for row in self._cells[self._line :]]
            above = [row.text.rstrip() for row in self._cells[: self._line]]
            self.frames.append(
                Frame(self.columns, tuple(lines), self._cut, tuple(above))
            )
        self._cut = 0
