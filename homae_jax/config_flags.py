"""Command lines of the entry points: --config=FILE, --config.KEY=VALUE, absl flags.

A configuration is a Python file with `get_config()` (configs/*.py), or
`get_config(argument)` for ``--config=FILE:argument``. Any key can be overridden; the
value is read as the type the key has. Every mistake is a `UserError` of one line.

Light to import: no JAX, so that --help and mistakes answer at once.
"""

import argparse
import ast
import difflib
import functools
import importlib.util
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ml_collections
from absl import app, flags

from homae_jax import command_line
from homae_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
COMMON = ROOT / "configs" / "common.py"  # every key there is
PREFIX = "--config."
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
HELP_WIDTH = 80
MISREAD = {  # how absl says that a value is of another type
    "invalid literal for int()": int,
    "could not convert string to float": float,
    "('Non-boolean argument": bool,
}
FORMS = {
    "string": "TEXT",
    "multi string": "TEXT",
    "int": "N",
    "float": "X",
    "comma separated list of strings": "A,B,..",
}

Groups = Mapping[str, Sequence[str]]

_OVERRIDES: list["Override"] = []  # of this process's command line


class Override(NamedTuple):
    """``--config.KEY=VALUE`` of a command line; without value: a key switched on."""

    key: str
    value: str | None

    def __str__(self) -> str:
        value = "" if self.value is None else f"={self.value}"
        return f"{PREFIX}{self.key}{value}"


class ConfigFlag:
    """The flag --config; its value is the configuration with its overrides."""

    def __init__(self, flag_values: flags.FlagValues) -> None:
        self._holder = flags.DEFINE_string(
            "config",
            None,
            "Configuration file, such as configs/ho3d.py; --config.KEY=VALUE overrides "
            "a key (configs/common.py lists them all).",
            flag_values=flag_values,
        )
        self._loaded: ml_collections.ConfigDict | None = None

    @property
    def value(self) -> ml_collections.ConfigDict | None:
        """None without the flag."""
        if self._loaded is None and self._holder.value is not None:
            self._loaded = load_config(self._holder.value, overrides())
        return self._loaded


def define_config(flag_values: flags.FlagValues) -> ConfigFlag:
    """Defines --config=FILE[:ARGUMENT]."""
    return ConfigFlag(flag_values)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """``--set KEY=VALUE KEY=VALUE`` for argparse, which gives `options.overrides`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="extend",
        nargs="+",
        type=_read_override,
        default=[],
        metavar="KEY=VALUE",
        help="keys of the configuration, such as data.root=/data/HO3D_v2 "
        f"model.dtype=bfloat16; the same as {PREFIX}KEY=VALUE",
    )


def overrides() -> tuple[Override, ...]:
    """The ``--config.KEY=VALUE`` of the command line that `run` has parsed."""
    return tuple(_OVERRIDES)


def run(
    main: Callable[[Sequence[str]], int | None],
    flag_values: flags.FlagValues,
    groups: Groups | None = None,
    *,
    takes_config: bool = True,
) -> NoReturn:
    """Runs an entry point: foreseeable mistakes print one line and exit with 2.

    Args:
      flag_values: its flags: an entry point has its own, so that two of them can be
        imported beside each other.
      groups: title -> names of flags, for --help; those in none come last.
      takes_config: whether ``--config.KEY=VALUE`` means anything to it.
    """

    def command(argv: Sequence[str]) -> int | None:
        if {"--help", "-h", "--helpshort"} & set(argv[1:]):
            print(_help(flag_values, groups or {}))
            return 0
        left = parse(flag_values, argv)
        if overrides() and not takes_config:
            raise UserError(f"{overrides()[0]}: this command has no configuration")
        return main(left)

    def guarded(argv: Sequence[str]) -> NoReturn:
        command_line.finish(command_line.guard(lambda: command(argv)))

    app.run(guarded, flags_parser=_keep)


def _keep(argv: Sequence[str]) -> list[str]:
    """What absl is to parse: nothing; its own flags keep their defaults."""
    flags.FLAGS.mark_as_parsed()
    return list(argv)


def parse(flag_values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Reads absl flags and the overrides of the configuration.

    Raises:
      UserError: a flag that does not exist or cannot be read, or a stray argument.
    """
    others, _OVERRIDES[:] = split_overrides(argv[1:])
    try:
        left = flag_values([argv[0], *others])
    except flags.Error as error:
        raise UserError(f"{_reworded(error)} (--help lists the flags)") from error
    if left[1:]:
        raise UserError(
            f"unexpected argument {left[1]!r}: flags are set by --FLAG=VALUE, keys of "
            f"a configuration by {PREFIX}KEY=VALUE (--help has examples)"
        )
    return left


def _reworded(error: flags.Error) -> str:
    """The first line of absl's complaint, in the words that overrides have."""
    message = str(error).splitlines()[0].replace(" ?", "?")
    for words, kind in MISREAD.items():
        flag, found, _ = message.partition(f": {words}")
        if found:
            return f"{flag}: wants {command_line.KINDS[kind]}"
    return message


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.Namespace:
    """Reads flags of argparse; overrides of either spelling are `options.overrides`.

    Raises:
      UserError: ``--config.KEY=VALUE`` where `add_overrides` was not called.
    """
    others, found = split_overrides(arguments)
    options = parser.parse_args(others)
    if found and "overrides" not in options:
        raise UserError(f"{found[0]}: {parser.prog} has no configuration")
    if found:
        options.overrides = [*options.overrides, *found]
    return options


def _read_override(text: str) -> Override:
    key, equals, value = text.partition("=")
    return Override(key, value if equals else None)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Separates ``--config.KEY=VALUE`` and ``--config.KEY VALUE`` from the rest."""
    others, found = [], []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith(PREFIX):
            others.append(argument)
            continue
        key, equals, value = argument.removeprefix(PREFIX).partition("=")
        if equals:
            found.append(Override(key, value))
        elif waiting and not waiting[0].startswith("--"):
            found.append(Override(key, waiting.pop(0)))
        else:
            found.append(Override(key, None))
    return others, found


def load_config(
    spec: str, overrides: Sequence[Override] = ()
) -> ml_collections.ConfigDict:
    """Runs ``FILE`` or ``FILE:argument`` and overrides keys.

    A relative FILE is looked up here, then beside the package.

    Raises:
      UserError: no such file, a mistake in it, or in an override.
    """
    path, colon, argument = spec.partition(":")
    file = _find(path)
    get_config = _function_of(file, "get_config")
    arguments = [argument] if colon else []
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError as error:
        want = "takes no" if colon else "wants an"
        raise UserError(
            f"--config={spec}: its get_config() {want} argument after the colon"
        ) from error
    config = _run_code(get_config, arguments, file)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{file}: get_config() returns no ConfigDict")
    if COMMON.is_file() and file != COMMON:
        _check_keys(config, file)
    apply_overrides(config, overrides)
    return config


def load_sweep(path: str) -> dict[str, dict[str, Any]]:
    """What a configuration file's sweep() gives: setting -> key -> value.

    The file is looked up as that of `load_config`.

    Raises:
      UserError: no such file, a mistake in it, or it has no sweep().
    """
    file = _find(path)
    settings = _run_code(_function_of(file, "sweep"), [], file)
    if not isinstance(settings, Mapping) or not settings:
        raise UserError(f"{file}: its sweep() gives no settings")
    return dict(settings)


def apply_overrides(
    config: ml_collections.ConfigDict, overrides: Sequence[Override]
) -> None:
    """Sets keys, each read as the type it has; locks the configuration.

    Raises:
      UserError: an unknown key (with the nearest one) or a value of another type.
    """
    config.lock()
    for override in overrides:
        parent, name = _resolve(config, override)
        value = _read(override, parent.get_type(name), parent[name])
        with parent.ignore_type():
            parent[name] = value


def completed(values: dict[str, Any], origin: str) -> dict[str, Any]:
    """A stored configuration, of the types of configs/common.py and with its new keys.

    Where the package was installed without configs/, it stays as it is.

    Raises:
      UserError: a value of another type; `origin` names the file.
    """
    if not COMMON.is_file():
        return values
    return _complete(values, _common_keys(), "", origin)


@functools.cache
def _common_keys() -> dict[str, Any]:
    return load_config(str(COMMON)).to_dict()


def key_names() -> list[str]:
    """Every key of configs/common.py, as a path; for completion."""
    return [name for name, _ in _flat_items(_common_keys())]


def _complete(
    values: dict[str, Any], known: dict[str, Any], prefix: str, origin: str
) -> dict[str, Any]:
    """One group of `completed`; keys that common.py does not know stay."""
    for key, example in known.items():
        path = f"{prefix}{key}"
        value = values.get(key, example)
        if isinstance(example, dict):
            if key in values and not isinstance(value, dict):
                raise UserError(f"{origin}: {path} is {value!r:.40}, expected a group")
            values = values | {key: _complete(value, example, f"{path}.", origin)}
        elif not _is_of_the_kind_of(example, value):
            raise UserError(
                f"{origin}: {path} is {value!r:.40}, expected like {example}"
            )
        else:
            values = values | {key: value}
    return values


def _is_of_the_kind_of(example: Any, value: Any) -> bool:
    """Whether JSON can have made the value of one like the example."""
    if isinstance(example, tuple | list):
        is_list = isinstance(value, tuple | list)
        return is_list and all(isinstance(x, bool | int | float | str) for x in value)
    if isinstance(example, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if example is None:
        return value is None or isinstance(value, str)
    return type(value) is type(example)


def differences(
    config: ml_collections.ConfigDict, other: ml_collections.ConfigDict
) -> Iterator[tuple[str, Any, Any]]:
    """Keys whose values differ: key, value here, value there (None: no such key).

    Lists, which JSON makes of tuples, are equal to those.
    """
    ours, theirs = (
        {key: tuple(v) if isinstance(v, list) else v for key, v in items}
        for items in (_flat_items(c.to_dict()) for c in (config, other))
    )
    for key in sorted(ours | theirs):
        if ours.get(key) != theirs.get(key):
            yield key, ours.get(key), theirs.get(key)


def _check_keys(config: ml_collections.ConfigDict, file: Path) -> None:
    """Refuses a key of a configuration file that nothing reads: it is mistyped."""
    known = key_names()
    for key, _ in _flat_items(config.to_dict()):
        if key not in known:
            hint = _hint(known, key)
            raise UserError(f"{file}: sets {key}, and there is no such key; {hint}")


def _find(path: str) -> Path:
    candidates = [Path(path).expanduser(), ROOT / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    folder = candidates[0].parent
    if not any(folder.glob("*.py")):
        folder = ROOT / "configs"
    found = sorted(p.name for p in folder.glob("*.py"))
    raise UserError(
        f"--config={path}: no such file; {folder} has {', '.join(found)}"
        f"{_suggest(Path(path).name, found)}"
    )


def _function_of(file: Path, name: str) -> Callable[..., Any]:
    """A function of a configuration file; its folder's parent becomes importable."""
    for parent in (str(ROOT), str(file.parent.parent)):
        if parent not in sys.path:
            sys.path.insert(0, parent)
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={file}: a configuration is a .py file")
    module = importlib.util.module_from_spec(spec)
    _run_code(spec.loader.exec_module, [module], file)
    if not callable(getattr(module, name, None)):
        raise UserError(f"{file}: defines no {name}()")
    return getattr(module, name)


def _run_code(function: Callable[..., Any], arguments: list, file: Path) -> Any:
    """Runs what a configuration file says; its mistakes become one line with the place.

    A `UserError` is the file's own, for an argument it does not know.
    """
    try:
        return function(*arguments)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        place = f"{file}:{lines[-1]}" if lines else str(file)
        said = " ".join(str(error).replace("\\n", " ").split())
        raise UserError(f"{place}: {type(error).__name__}: {said}") from error


def _resolve(
    config: ml_collections.ConfigDict, override: Override
) -> tuple[ml_collections.ConfigDict, str]:
    """The group that holds an override's key, and the key's last part."""
    parts = override.key.split(".")
    parent, name = config, parts[-1]
    for depth, part in enumerate(parts):
        if not isinstance(parent, ml_collections.ConfigDict):
            path = ".".join(parts[:depth])
            raise UserError(f"{override}: {path} is a value and has no keys")
        if part not in parent:
            keys = [name for name, _ in _flat_items(config.to_dict())]
            hint = _hint(keys, override.key, prefix=PREFIX)
            raise UserError(f"{override}: no such key; {hint}")
        if depth < len(parts) - 1:
            parent = parent[part]
    if isinstance(parent[name], ml_collections.ConfigDict):
        keys = ", ".join(parent[name])
        raise UserError(f"{override}: {override.key} is a group; its keys: {keys}")
    return parent, name


def _hint(keys: Sequence[str], key: str, prefix: str = "") -> str:
    """The nearest key: one of the same group, or of the same name, or any."""
    group, _, name = key.rpartition(".")
    siblings = [k for k in keys if k.rpartition(".")[0] == group]
    namesakes = [k for k in keys if k.rpartition(".")[2] == name]
    near = difflib.get_close_matches(key, siblings, 1) or namesakes[:1]
    for found in near or difflib.get_close_matches(key, keys, 1):
        return f"did you mean {prefix}{found}?"
    return "configs/common.py lists them all"


def _read(override: Override, kind: type, current: Any) -> Any:
    """The value of an override as the type of its key."""
    text = override.value
    if kind is bool:
        value = BOOLEANS.get("true" if text is None else text.lower())
    elif text is None:
        raise UserError(f"{override}: no value; write {override}=VALUE")
    elif kind is str:
        value = text
    elif issubclass(kind, tuple | list):
        value = _read_tuple(text, current)
    else:
        value = _read_number(text, kind)
    if value is None:
        raise UserError(f"{override}: wants {_describe(kind, current)}, like {current}")
    return value


def _read_number(text: str, kind: type) -> int | float | None:
    try:
        return kind(text)
    except ValueError:
        return None


def _read_tuple(text: str, current: Sequence[Any]) -> tuple | None:
    """Reads ``(1, 2)`` or ``1,2``; elements must be of the kind of the present ones."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    value = tuple(value) if isinstance(value, tuple | list) else (value,)
    kinds = {type(item) for item in current}
    if float in kinds:
        kinds.add(int)
    is_fit = not kinds or all(type(item) in kinds for item in value)
    return value if is_fit else None


def _describe(kind: type, current: Any) -> str:
    if issubclass(kind, tuple | list):
        inner = sorted({type(item).__name__ for item in current})
        return f"a tuple of {'/'.join(inner) or 'values'}"
    return command_line.KINDS.get(kind, f"a {kind.__name__}")


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _flat_items(values: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key as a path, `model.encoder.variant`, with its value."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _help(flag_values: flags.FlagValues, groups: Groups) -> str:
    """The module's docstring, then its flags by groups."""
    known = {name: flag_values[name] for name in flag_values}
    grouped = {name for names in groups.values() for name in names}
    others = [name for name in known if name not in grouped]
    lines = [(sys.modules["__main__"].__doc__ or "").rstrip()]
    for title, names in {
        **groups,
        "Other flags" if groups else "Flags": others,
    }.items():
        lines += ["", f"{title}:"] if names else []
        for name in names:
            lines += _flag_help(known[name])
    return "\n".join([*lines, "", command_line.STATUSES])


def _flag_help(flag: flags.Flag) -> list[str]:
    """A flag's form, and what it does in lines of their own."""
    kind = flag.flag_type()
    form = "" if flag.boolean else "=" + FORMS.get(kind, kind.upper())
    text = flag.help or ""
    if isinstance(flag, flags.EnumFlag):
        form = "=" + "|".join(flag.parser.enum_values)
        text = text.partition(">: ")[2]
    if isinstance(flag, flags.MultiFlag):
        text = text.partition(";\n")[0]  # after it, absl says how lists are given
    if flag.boolean and flag.default:
        form, text = "=false", f"On unless false: {text[:1].lower()}{text[1:]}"
    elif flag.default is not None and not flag.boolean:
        text += f" Default: {flag.default_as_str}".replace("'", "")
    indent = {"initial_indent": " " * 6, "subsequent_indent": " " * 6}
    return [f"  --{flag.name}{form}", *textwrap.wrap(text, HELP_WIDTH, **indent)]
