"""Values: immutable objects that are equal when their fields are.

`value` makes of a class what ``dataclass(frozen=True)`` makes of it, and `record` what
``dataclass`` does, for a thirtieth of the time, which every start pays for each class
that it imports: no code is made of text. The annotations of a class name its fields;
those of its bases do not count.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Callable, NoReturn, TypeVar

if TYPE_CHECKING:
    from inspect import Signature

    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_options):
        """Declares the fields for mypy, and does nothing when the program runs."""
        return lambda decorator: decorator


T = TypeVar("T")

_NOTHING: Any = object()  # stands for a default that there is not


class _Field:
    """What `field` says of one field."""

    def __init__(
        self, default: Any, factory: Any, *, is_shown: bool, is_compared: bool
    ) -> None:
        self.default = default
        self.factory = factory
        self.is_shown = is_shown
        self.is_compared = is_compared


def field(
    *,
    default: Any = _NOTHING,
    default_factory: Any = _NOTHING,
    repr: bool = True,
    compare: bool = True,
) -> Any:
    """A field whose default is made each time, or that ``repr()`` or ``==`` ignores."""
    return _Field(default, default_factory, is_shown=repr, is_compared=compare)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """*cls* with the methods of a value that never changes."""
    fields = _Fields(cls)
    values_of = fields.getter()
    return _with_methods(
        cls,
        fields,
        __hash__=lambda self: hash(values_of(self)),
        __setattr__=_refuse_to_set,
        __delattr__=_refuse_to_delete,
    )


@dataclass_transform(field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """*cls* with the methods of an object whose fields may be assigned to."""
    return _with_methods(cls, _Fields(cls), __hash__=None)


def replace(old: T, /, **changes: Any) -> T:
    """A copy of *old* with *changes* to the fields that these name."""
    return type(old)(**{**as_dict(old), **changes})


def as_dict(instance: Any, /) -> dict[str, Any]:
    """The fields of a value by name."""
    return {name: getattr(instance, name) for name in instance.__match_args__}


class _Fields:
    """The fields of *cls*: their names in order, and what is known of each.

    A default stays where it is, in the class; an instance has what it was given.
    """

    def __init__(self, cls: type) -> None:
        self.title = cls.__qualname__
        self.names = tuple(
            name
            for name, annotation in getattr(cls, "__annotations__", {}).items()
            if not str(annotation).startswith("ClassVar")
        )
        self._are_names = frozenset(self.names).issuperset
        self.shown = list(self.names)
        self.compared = list(self.names)
        self.factories: dict[str, Callable[[], Any]] = {}
        self.defaults: dict[str, Any] = {}
        for name in self.names:
            if name in vars(cls):
                self._read(name, cls)
        optional = len(self.defaults) + len(self.factories)
        self.required = self.names[: len(self.names) - optional]

    def _read(self, name: str, cls: type) -> None:
        """Note what the class says of field *name*."""
        default = vars(cls)[name]
        if isinstance(default, _Field):
            if not default.is_shown:
                self.shown.remove(name)
            if not default.is_compared:
                self.compared.remove(name)
            if default.factory is not _NOTHING:
                self.factories[name] = default.factory
            default = default.default
            delattr(cls, name)
        if default is not _NOTHING:
            self.defaults[name] = default
            is_method = hasattr(type(default), "__get__")
            setattr(cls, name, staticmethod(default) if is_method else default)

    def getter(self) -> Callable[[Any], tuple[Any, ...]]:
        """What gives the values by which an instance is compared."""
        names = self.compared
        if len(names) > 1:
            return attrgetter(*names)
        return lambda instance: tuple(getattr(instance, name) for name in names)

    def check_named(self, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Raise a TypeError unless *named* arguments may follow *args*."""
        given = len(args)
        lacking = [name for name in self.required[given:] if name not in named]
        twice = not named.keys().isdisjoint(self.names[:given])
        if lacking or twice or not self._are_names(named):
            self.refuse(args, named)

    def refuse(self, args: tuple[Any, ...], named: dict[str, Any]) -> NoReturn:
        """Raise the TypeError that says what is wrong with these arguments."""
        positional = self.names[: len(args)]
        known = {*positional, *named, *self.defaults, *self.factories}
        problems = {
            "has no field {}": [name for name in named if name not in self.names],
            "was given {} twice": [name for name in positional if name in named],
            "lacks {}": [name for name in self.names if name not in known],
        }
        for problem, names in problems.items():
            if names:
                raise TypeError(f"{self.title}() {problem.format(', '.join(names))}")
        count = f"{len(self.names)} arguments, not {len(args)}"
        raise TypeError(f"{self.title}() takes {count}")


def _with_methods(cls: type[T], fields: _Fields, **methods: Any) -> type[T]:
    """*cls* with *methods* and what all of these classes get; its own stay."""
    methods.update(
        __init__=_initializer(cls, fields),
        __eq__=_equality(fields),
        __repr__=_representation(fields),
        __replace__=replace,  # what copy.replace of Python 3.13 calls
        __match_args__=fields.names,
        __signature__=_Signature(fields),
    )
    for name, method in methods.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    return cls


def _initializer(cls: type, fields: _Fields) -> Callable[..., None]:
    names, least, most = fields.names, len(fields.required), len(fields.names)
    made = [(names.index(name), name, make) for name, make in fields.factories.items()]
    check = getattr(cls, "__post_init__", None)
    assign = object.__setattr__  # self.__dict__ would double the size of an instance

    def __init__(self: Any, /, *args: Any, **named: Any) -> None:
        given = len(args)
        if named:
            fields.check_named(args, named)
            for name, value in named.items():
                assign(self, name, value)
        elif not least <= given <= most:
            fields.refuse(args, named)
        for name, value in zip(names, args):
            assign(self, name, value)
        for place, name, make in made:
            if place >= given and name not in named:
                assign(self, name, make())
        if check is not None:
            check(self)

    return __init__


def _equality(fields: _Fields) -> Callable[[Any, Any], bool]:
    values_of = fields.getter()

    def __eq__(self: Any, other: Any) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return values_of(self) == values_of(other)

    return __eq__


def _representation(fields: _Fields) -> Callable[[Any], str]:
    shown = fields.shown

    def __repr__(self: Any) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({', '.join(values)})"

    return __repr__


def _refuse_to_set(self: Any, name: str, to: Any) -> NoReturn:
    raise AttributeError(f"cannot assign to {name!r}: {type(self).__name__} is a value")


def _refuse_to_delete(self: Any, name: str) -> NoReturn:
    raise AttributeError(f"cannot delete {name!r}: {type(self).__name__} is a value")


class _Signature:
    """What `help` shows of a class; made when somebody asks, as inspect is large."""

    def __init__(self, fields: _Fields) -> None:
        self._fields = fields

    def __get__(self, instance: object, cls: type) -> Signature:
        from inspect import Parameter, Signature

        default = {
            **dict.fromkeys(self._fields.factories, ...),
            **self._fields.defaults,
        }
        return Signature(
            [
                Parameter(
                    name,
                    Parameter.POSITIONAL_OR_KEYWORD,
                    default=default.get(name, Parameter.empty),
                    annotation=cls.__annotations__[name],
                )
                for name in self._fields.names
            ]
        )
