"""Which layers of a model are meant: by name, pattern, class or function."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from layerscope.errors import ConfigurationError, listed

LayerChoice = str | type[nn.Module] | Callable[[str, nn.Module], bool]

_WAY_OUT = "`layerscope layers --config FILE` lists all that can be named."


class ChosenLayer(NamedTuple):
    """A module, and the path to the tensor in its output; None where the output has one tensor only."""

    module: nn.Module
    path: str | None


def choose_layers(
    root: nn.Module, layers: Sequence[LayerChoice] | None = None, exclude: Sequence[LayerChoice] = ()
) -> dict[str, ChosenLayer]:
    """The layers of ``root`` that are meant, in the order of ``root.named_modules()``.

    A choice is one of

    - an exact name: ``decoder.mid_block``;
    - a glob: ``*`` and ``?`` stay within one dotted part, ``**`` crosses parts (also none, before a dot):
      ``decoder.up_blocks.*.resnets.*``, ``decoder.**``, ``**.conv1``;
    - ``re:PATTERN``, a regular expression that matches the whole name;
    - ``class:NAME``, modules of a class of that name or derived from one;
    - a class of modules;
    - a function of (name, module) that says yes or no.

    A string may end in ``@PATH``, the place of the tensor in the layer's output (``layerscope.probes.outputs``):
    ``vision_model@last_hidden_state``, ``blocks.*@0``. A layer that is chosen with a path is not chosen without one
    too. A module under two names counts once, under the first.

    Args:
        root: the module whose ``named_modules`` are the names; never chosen itself.
        layers: None chooses every module inside ``root`` that has a ``forward``, that is every leaf and every block.
            Modules without (``ModuleList`` and the like) are never called, and no choice but an exact name meets them.
        exclude: layers to leave out again; each leaves out the module alone, not what is inside it.

    Returns:
        Name to layer; the name of one with a path is ``NAME@PATH``.

    Raises:
        ConfigurationError: a choice that meets nothing (with close names), the exact name of a module that is never
            called (with its children), an invalid expression, or nothing left after ``exclude``.
    """
    modules = _Modules(root)
    chosen: dict[str, dict[str | None, None]] = {}
    for choice in ["**"] if layers is None else _as_list(layers, "layers"):
        wanted, path = _split_path(choice)
        for name in modules.meant_by(wanted, "layers"):
            chosen.setdefault(name, {})[path] = None
    if not chosen:
        raise ConfigurationError(f"No layers are named. Leave layers out to choose all of them. {_WAY_OUT}")
    left = dict(chosen)
    for choice in _as_list(exclude, "exclude"):
        wanted, path = _split_path(choice)
        if path is not None:
            raise ConfigurationError(
                f"exclude has {choice!r}: what is left out is a whole layer, so remove @{path}; parts of an output are "
                "chosen in layers."
            )
        for name in modules.meant_by(wanted, "exclude"):
            left.pop(name, None)
    if not left:
        raise ConfigurationError(
            f"exclude takes away every layer that was chosen ({listed(list(chosen))}). Remove patterns from exclude, "
            "or choose more layers."
        )
    return {
        name if path is None else f"{name}@{path}": ChosenLayer(module, path)
        for name, module in modules.called.items()
        if name in left
        for path in _most_exact(left[name])
    }


def has_forward(module: nn.Module) -> bool:
    """False for containers such as ``ModuleList``, which are never called and have no output."""
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


class _Modules:
    """The modules inside a root by all their names."""

    def __init__(self, root: nn.Module) -> None:
        self._first: dict[str, str] = {}  # any name of a module to its first
        self._all: dict[str, nn.Module] = {}
        seen: dict[int, str] = {}
        for name, module in root.named_modules(remove_duplicate=False):
            if module is not root:
                self._all[name] = module
                self._first[name] = seen.setdefault(id(module), name)
        self.called: Mapping[str, nn.Module] = {
            name: module for name, module in self._all.items() if self._first[name] == name and has_forward(module)
        }
        self._root_class = type(root).__name__

    def meant_by(self, choice: LayerChoice, option: str) -> list[str]:
        """First names of the modules that ``choice`` meets; at least one."""
        if isinstance(choice, str) and choice in self._all:
            if not has_forward(self._all[choice]):
                raise self._container(choice, option)
            return [self._first[choice]]
        matches = _test_of(choice, option)
        found = [name for name, module in self._all.items() if has_forward(module) and matches(name, module)]
        if not found:
            raise self._miss(choice, option)
        return list(dict.fromkeys(self._first[name] for name in found))

    def _container(self, name: str, option: str) -> ConfigurationError:
        module = self._all[name]
        children = [f"{name}.{child}" for child, _ in module.named_children()]
        told = f"Name its children: {listed(children)}" if children else "It has no children either"
        return ConfigurationError(
            f"{option} names {name}, a {type(module).__name__}, which only holds other modules and is never called "
            f"itself. {told}{f', or {name}.* for all of them' if len(children) > 1 else ''}."
        )

    def _miss(self, choice: LayerChoice, option: str) -> ConfigurationError:
        names = list(self._all)
        if not names:
            return ConfigurationError(
                f"There are no modules inside the {self._root_class}, and layers are watched inside a model. Put it "
                "into one (torch.nn.Sequential)."
            )
        classes = list(dict.fromkeys(type(module).__name__ for module in self._all.values()))
        inside = f"of the {len(names)} modules inside the {self._root_class}"
        match choice:
            case str() if not choice.startswith("class:"):
                close = _close_names(choice.removeprefix("re:"), names)
                hint = f"Close names are {listed(close)}." if close else f"Its first ones are {listed(names, 8)}."
            case str() | type():
                wanted = choice.__name__ if isinstance(choice, type) else choice.removeprefix("class:")
                near = difflib.get_close_matches(wanted, classes, n=3)
                hint = f"Close classes are {listed(near)}." if near else f"Their classes are {listed(classes)}."
            case _:
                hint = f"It was asked about {listed(names, 8)}."
        if any("_orig_mod" in name.split(".") for name in names):
            hint += " Compiled modules have other names (_orig_mod) and cannot be probed: set compile: false."
        return ConfigurationError(f"{option} has {choice!r}, which matches none {inside}. {hint} {_WAY_OUT}")


def _most_exact(paths: Iterable[str | None]) -> list[str | None]:
    """
    >>> _most_exact([None, "0", "1"])
    ['0', '1']
    """
    return [path for path in paths if path is not None] or [None]


def _as_list(choices: Sequence[LayerChoice], option: str) -> list[LayerChoice]:
    if isinstance(choices, str):
        raise ConfigurationError(f"{option} is the string {choices!r}: expected a list, such as [{choices}].")
    return list(choices)


def _split_path(choice: LayerChoice) -> tuple[LayerChoice, str | None]:
    if not isinstance(choice, str) or "@" not in choice:
        return choice, None
    name, _, path = choice.rpartition("@")
    if not name or not path:
        raise ConfigurationError(
            f"The layer {choice!r} is not of the form NAME@PATH, such as encoder.layers.3@0 or "
            "vision_model@last_hidden_state."
        )
    return name, path


def _test_of(choice: LayerChoice, option: str) -> Callable[[str, nn.Module], bool]:
    """The choice as a function of (name, module)."""
    match choice:
        case type():
            of_class = choice
            return lambda _, module: isinstance(module, of_class)
        case str() if choice.startswith("class:"):
            class_name = choice.removeprefix("class:")
            return lambda _, module: any(base.__name__ == class_name for base in type(module).__mro__)
        case str() if choice.startswith("re:"):
            try:
                expression = re.compile(choice.removeprefix("re:"))
            except re.error as error:
                raise ConfigurationError(
                    f"{option} has {choice!r}, which is no regular expression: {error}."
                ) from error
            return lambda name, _: expression.fullmatch(name) is not None
        case str():
            glob = _glob(choice)
            return lambda name, _: glob.fullmatch(name) is not None
    return choice


def _glob(pattern: str) -> re.Pattern[str]:
    """``**.`` at the start of a part also stands for no part, as in the globs of git."""
    written = []
    for token in re.split(r"((?:(?<=\.)|^)\*\*\.|\*\*|\*|\?)", pattern):
        match token:
            case "**.":
                written.append(r"(?:.+\.)?")
            case "**":
                written.append(".*")
            case "*":
                written.append("[^.]*")
            case "?":
                written.append("[^.]")
            case _:
                written.append(re.escape(token))
    return re.compile("".join(written))


def _close_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Names like ``wanted`` as a whole, then names whose last part is like its last part."""
    if "*" in wanted:  # a pattern is like other patterns
        names = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in names)
    names = list(names)
    with_last: dict[str, list[str]] = {}
    for name in names:
        with_last.setdefault(name.rpartition(".")[2], []).append(name)
    close = difflib.get_close_matches(wanted, names, n=3)
    for last in difflib.get_close_matches(wanted.rpartition(".")[2], with_last, n=2):
        close += with_last[last][:2]
    return list(dict.fromkeys(close))
