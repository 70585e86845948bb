"""What was measured, as data: into JSON and back, medians and ratios."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Mapping

from .measure import Cost
from .peers import FAST, FLOOR, REGISTRY, SKOPEO

WORSE = 1.15
"""How many times the recorded ratio is too much."""


@dataclass(frozen=True)
class Round:
    """One cold run, such as a push into an empty registry, and the same run again.

    *stored* is bytes at the target; what is run only once has no *warm*.
    """

    cold: Cost
    warm: Cost | None
    stored: int


@dataclass(frozen=True)
class Result:
    """All rounds of *peer* in *case*; *size* is bytes of the image's layers."""

    case: str
    peer: str
    size: int
    rounds: tuple[Round, ...]

    def median(self, value: Callable[[Round], float]) -> float:
        """The median of *value* over the rounds."""
        return statistics.median(map(value, self.rounds))

    def wall(self) -> tuple[float, float, float]:
        """The shortest, the median and the longest cold run, in seconds."""
        walls = [one.cold.wall for one in self.rounds]
        return min(walls), statistics.median(walls), max(walls)

    def warm_wall(self) -> float | None:
        """The median of the second runs, in seconds."""
        walls = [one.warm.wall for one in self.rounds if one.warm is not None]
        return statistics.median(walls) if walls else None


@dataclass(frozen=True)
class StartUp:
    """Seconds of *name*, again and again, beside those of *against*."""

    name: str
    seconds: tuple[float, ...]
    against: str
    against_seconds: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long *name* takes."""
        return statistics.median(self.seconds) / statistics.median(self.against_seconds)


@dataclass(frozen=True)
class Report:
    """A whole run. *about* says when, where, and by which command."""

    about: Mapping[str, str]
    skipped: tuple[str, ...]
    results: tuple[Result, ...]
    start_up: tuple[StartUp, ...]

    def cases(self) -> list[str]:
        """The cases in the order they ran."""
        return list(dict.fromkeys(result.case for result in self.results))

    def of(self, case: str) -> list[Result]:
        """The results of *case*."""
        return [result for result in self.results if result.case == case]

    def base(self, case: str) -> Result | None:
        """What the others in *case* are compared with: the first of these three."""
        by_peer = {result.peer: result for result in self.of(case)}
        bases = (by_peer.get(peer) for peer in (FLOOR, SKOPEO, REGISTRY))
        return next((base for base in bases if base is not None), None)

    def worse_than(self, recorded: Report) -> list[str]:
        """Where one of our programs is slower beside the others than it was.

        In every round its time, beside that of the fastest other program in that round,
        is WORSE times what *recorded* says of the case, or more.
        """
        found = []
        for ours in self.results:
            now, before = self._ratios(ours), recorded._ratios(ours)
            if now and before and min(now) > WORSE * statistics.median(before):
                old, new = statistics.median(before), statistics.median(now)
                ratios = f"{new:.2f} x the best of the others, recorded {old:.2f}"
                found.append(f"{ours.case}: {ours.peer}: {ratios}")
        return found

    def _ratios(self, ours: Result) -> list[float]:
        """The time of *ours* beside the fastest of the others, for each round."""
        own = [one for one in self.of(ours.case) if one.peer == ours.peer]
        others = [one for one in self.of(ours.case) if not one.peer.startswith(FAST)]
        if not ours.peer.startswith(FAST) or not own or not others:
            return []
        rounds = zip(own[0].rounds, *(one.rounds for one in others))
        return [
            mine.cold.wall / min(one.cold.wall for one in rest)
            for mine, *rest in rounds
        ]

    def write(self, path: Path) -> None:
        """Write everything to *path* as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `write` wrote."""
        record = json.loads(path.read_text())
        return cls(
            record["about"],
            tuple(record["skipped"]),
            tuple(map(_result, record["results"])),
            tuple(
                StartUp(
                    one["name"],
                    tuple(one["seconds"]),
                    one["against"],
                    tuple(one["against_seconds"]),
                )
                for one in record["start_up"]
            ),
        )


def _result(record: Mapping[str, Any]) -> Result:
    rounds = tuple(
        Round(
            Cost(**one["cold"]),
            Cost(**one["warm"]) if one["warm"] else None,
            one["stored"],
        )
        for one in record["rounds"]
    )
    return Result(record["case"], record["peer"], record["size"], rounds)
