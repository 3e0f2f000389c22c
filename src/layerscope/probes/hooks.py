"""Forward hooks that are always removed, and the compiled modules whose hooks never fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from layerscope.errors import ConfigurationError, listed

Watch = Callable[[Any], None]


class ForwardHooks:
    """Calls each function with what its module gave back, until ``remove`` or the end of the ``with`` block.

    Holds no reference to the modules.
    """

    def __init__(self, watches: Iterable[tuple[nn.Module, Watch]]) -> None:
        self._handles: list[RemovableHandle] = []
        try:
            for module, watch in watches:
                self._handles.append(module.register_forward_hook(_hook(watch)))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Removes the hooks; a second time does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> ForwardHooks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


def refuse_compiled(root: nn.Module, names: Iterable[str] = ()) -> None:
    """Refuses a compiled ``root``, and modules inside it of these names that are compiled or inside a compiled one.

    Raises:
        ConfigurationError: with the compiled modules.
    """
    inside = {name: root.get_submodule(name) for path in names for name in _with_ancestors(path)}
    compiled = [name for name, module in inside.items() if _is_compiled(module)]
    if _is_compiled(root):
        compiled.insert(0, f"the {type(getattr(root, '_orig_mod', root)).__name__} itself")
    if compiled:
        raise ConfigurationError(
            f"Compiled modules cannot be probed: {listed(compiled)}. Hooks that are added after the first call of a "
            "compiled module never fire. Probe the uncompiled model (compile: false)."
        )


def _hook(watch: Watch) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        watch(output)

    return hook


def _with_ancestors(name: str) -> list[str]:
    """
    >>> _with_ancestors("decoder.up_blocks.0")
    ['decoder', 'decoder.up_blocks', 'decoder.up_blocks.0']
    """
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _is_compiled(module: nn.Module) -> bool:
    """By ``torch.compile(module)`` or ``module.compile()``; without importing the compiler to ask for its class."""
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
