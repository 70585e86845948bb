"""Values behave as frozen dataclasses do, and are cheaper to define."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import time
import tracemalloc
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush import values
from dockerpush.values import as_dict, field, record, replace, value

NAMES = ("alpha", "beta", "gamma", "delta", "self", "values")

KINDS = st.sampled_from(["required", "hidden", "default", "hidden default", "factory"])


@value
class Point:
    """Where something is."""

    KIND: ClassVar[str] = "point"

    x: int
    y: int = 0
    marks: list[str] = field(default_factory=list)
    secret: str = field(default="none", repr=False)


@value
class Checked:
    """A value that is looked at when it is made."""

    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"a size below 0: {self.size}")


@value
class Empty:
    """A value of which there is one only."""


@value
class Spoken:
    """A value that says itself what it looks like."""

    word: str

    def __repr__(self) -> str:
        return f"<{self.word}>"


@record
class Count:
    """Something that is counted up."""

    name: str
    number: int = 0


def both(kinds: list[str]) -> tuple[type, type]:
    """The same class as a value and as a frozen dataclass, with fields of *kinds*."""
    kinds = sorted(kinds, key=lambda kind: kind not in ("required", "hidden"))
    return _made(kinds, values.field, value), _made(
        kinds, dataclasses.field, dataclasses.dataclass(frozen=True)
    )


def _made(kinds: list[str], field: Any, decorator: Any) -> type:
    specified = {
        "hidden": lambda: field(repr=False),
        "default": lambda: 7,
        "hidden default": lambda: field(default=8, repr=False),
        "factory": lambda: field(default_factory=tuple),
    }
    fields = {
        name: specified[kind]() for name, kind in zip(NAMES, kinds) if kind in specified
    }
    annotations = dict.fromkeys(NAMES[: len(kinds)], "Any")
    return decorator(type("Made", (), {"__annotations__": annotations, **fields}))


def outcome(make: Any, args: list[Any], named: dict[str, Any]) -> Any:
    """What was made, or the kind of the error."""
    try:
        return make(*args, **named)
    except TypeError:
        return TypeError


@given(
    st.lists(KINDS, max_size=len(NAMES)),
    st.lists(st.integers(0, 3), max_size=len(NAMES) + 1),
    st.dictionaries(st.sampled_from([*NAMES, "unknown"]), st.integers(0, 3)),
)
def test_arguments_are_taken_as_a_dataclass_takes_them(kinds, args, named):
    """The same fields, the same defaults, the same refusals, the same repr and hash."""
    named.pop("self", None)  # which the constructor of a dataclass cannot be given
    ours, theirs = both(kinds)
    made, model = outcome(ours, args, named), outcome(theirs, args, named)
    assert (made is TypeError) == (model is TypeError)
    if made is not TypeError:
        assert repr(made) == repr(model)
        assert as_dict(made) == dataclasses.asdict(model)
        assert hash(made) == hash(model)
        assert made == ours(*args, **named)


@given(st.lists(KINDS, min_size=1, max_size=3), st.data())
def test_values_are_equal_when_those_of_a_dataclass_are(kinds, data):
    ours, theirs = both(kinds)
    arguments = st.lists(st.integers(0, 1), min_size=len(kinds), max_size=len(kinds))
    one, other = data.draw(arguments), data.draw(arguments)
    assert (ours(*one) == ours(*other)) == (theirs(*one) == theirs(*other))
    assert (ours(*one) != ours(*other)) == (theirs(*one) != theirs(*other))


@given(
    st.lists(KINDS, min_size=1, max_size=len(NAMES)),
    st.dictionaries(st.sampled_from([*NAMES[:3], "unknown"]), st.integers(0, 3)),
)
def test_replace_changes_what_that_of_a_dataclass_changes(kinds, changes):
    ours, theirs = both(kinds)
    args = list(range(len(kinds)))
    changed = outcome(lambda: replace(ours(*args), **changes), [], {})
    model = outcome(lambda: dataclasses.replace(theirs(*args), **changes), [], {})
    assert (changed is TypeError) == (model is TypeError)
    if changed is not TypeError:
        assert repr(changed) == repr(model)


def test_a_field_that_is_not_shown_still_counts():
    """A secret is kept out of logs, and tells two values apart."""
    assert repr(Point(1, secret="hush")) == "Point(x=1, y=0, marks=[])"
    assert Point(1, secret="hush") != Point(1)


def test_a_value_of_another_class_is_not_equal():
    ours, _ = both(["required"])
    assert Checked(1) != ours(1)
    assert Checked(1) != (1,)


def test_each_value_gets_a_default_of_its_own():
    one, other = Point(1), Point(1)
    one.marks.append("seen")
    assert other.marks == []


def test_a_default_is_made_only_when_it_is_needed():
    made = []

    @value
    class Lazy:
        number: int = field(default_factory=lambda: made.append(1) or 5)

    Lazy(3)
    Lazy(number=3)
    assert made == []
    assert Lazy().number == 5


def test_a_class_variable_is_not_a_field():
    assert Point.KIND == "point"
    assert list(as_dict(Point(1))) == ["x", "y", "marks", "secret"]


def test_a_value_never_changes():
    point = Point(1)
    with pytest.raises(AttributeError, match=r"'x'.*Point"):
        point.x = 2
    with pytest.raises(AttributeError, match=r"'z'.*Point"):
        point.z = 2
    with pytest.raises(AttributeError, match=r"'x'.*Point"):
        del point.x
    assert point.x == 1


def test_a_record_changes_and_has_no_hash():
    count = Count("pushes")
    count.number += 1
    assert count == Count("pushes", 1)
    assert repr(count) == "Count(name='pushes', number=1)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(count)


def test_a_value_is_looked_at_when_it_is_made_and_when_it_is_changed():
    with pytest.raises(ValueError, match="below 0"):
        Checked(-1)
    with pytest.raises(ValueError, match="below 0"):
        replace(Checked(1), size=-1)


def test_methods_of_the_class_stay():
    assert repr(Spoken("hello")) == "<hello>"


def test_a_value_may_have_no_fields():
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
    assert repr(Empty()) == "Empty()"


@pytest.mark.parametrize(
    ("args", "named", "message"),
    [
        ([], {}, r"Point\(\) lacks x"),
        ([1, 2, [], "", 5], {}, r"Point\(\) takes 4 arguments, not 5"),
        ([1], {"x": 1}, r"Point\(\) was given x twice"),
        ([1], {"z": 1, "w": 2}, r"Point\(\) has no field z, w"),
        ([], {"z": 1}, r"Point\(\) has no field z"),
    ],
)
def test_wrong_arguments_are_named_with_their_class(args, named, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        Point(*args, **named)


def test_a_value_is_copied_and_pickled_as_it_is():
    point = Point(1, marks=["seen"], secret="hush")
    copied = copy.deepcopy(point)
    assert copied == point
    assert copied.marks is not point.marks
    assert pickle.loads(pickle.dumps(point)) == point
    if hasattr(copy, "replace"):
        assert copy.replace(point, y=5) == replace(point, y=5)


def test_help_shows_the_fields_and_their_defaults():
    signature = inspect.signature(Point)
    assert list(signature.parameters) == ["x", "y", "marks", "secret"]
    assert signature.parameters["x"].default is inspect.Parameter.empty
    assert signature.parameters["y"].default == 0
    assert signature.bind(3, secret="").arguments == {"x": 3, "secret": ""}


def test_a_value_takes_no_more_memory_than_a_dataclass():
    """There are tens of thousands of them in a large index."""
    ours, theirs = both(["required", "required", "default", "default"])
    assert _memory(ours) <= _memory(theirs) * 1.05


def _memory(cls: Any) -> int:
    cls(0, 1)  # the first one shares its keys with the others
    tracemalloc.start()
    try:
        kept = [cls(0, 1) for _ in range(1000)]
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        del kept


def test_defining_a_value_is_much_cheaper_than_defining_a_dataclass():
    """It is what every start pays for: a fifth at the most, a thirtieth as measured."""
    ours = min(_seconds(value) for _ in range(5))
    theirs = min(_seconds(dataclasses.dataclass(frozen=True)) for _ in range(5))
    assert ours < theirs / 5


def _seconds(decorator: Any) -> float:
    fields = {"__annotations__": dict.fromkeys(NAMES, "int"), "delta": 0, "self": 0}
    started = time.process_time()
    for _ in range(20):
        decorator(type("Made", (), {**fields, "values": 0}))
    return time.process_time() - started
