"""A torch that is there at once and loads when something of it is first used.

Loading torch takes longer than a second, and a typing mistake must be answered in less. The modules
of recollect that a command line is checked with import torch at their top, for their functions to
use, and touch nothing of it while they are imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """A module that executes itself when it is first asked for something it does not have yet.

    `importlib.util.LazyLoader` would not do: it executes the module at *any* attribute access, and
    each further `import torch` statement reads `torch.__spec__`; and `import torch.nn` as the first
    use would execute torch.nn twice.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        # From here on an ordinary module, also for what it imports itself.
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = list(spec.submodule_search_locations or [])
        try:
            spec.loader.exec_module(self)
        except BaseException:
            sys.modules.pop(spec.name, None)  # as the import statement does
            raise
        return getattr(self, name)


class _Submodules(MetaPathFinder):
    """Keeps `import torch.nn` from executing torch.nn a second time.

    The import statement sees that torch.nn is not there, reads `torch.__path__`, which loads torch
    and with it torch.nn, and then looks for torch.nn: this finds the one that is there.
    """

    def __init__(self, package: str) -> None:
        self._prefix = package + "."

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname.startswith(self._prefix) and fullname in sys.modules:
            return ModuleSpec(fullname, _Existing(sys.modules[fullname]))
        return None


class _Existing(Loader):
    """Loads a module that is there by leaving it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def install(name: str = "torch") -> None:
    """Make `import name` free until something of the package is used.

    Does nothing if it is imported already, or not installed: the import then says so. The first use
    must not come from two threads at once.
    """
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = _Lazy(name)
    module.__spec__, module.__loader__ = spec, spec.loader
    module.__file__, module.__package__ = spec.origin, spec.parent
    # No __path__ yet: `import torch.nn` reads it, and with that loads torch before torch.nn.
    sys.modules[name] = module
    sys.meta_path.insert(0, _Submodules(name))


@contextlib.contextmanager
def hidden(name: str = "torch") -> Iterator[None]:
    """Inside, a module that has not been loaded yet looks as if nobody had imported it.

    For calls of libraries that look into `sys.modules` whether it is in use, and then use it.
    """
    module = sys.modules.get(name)
    if not isinstance(module, _Lazy):
        yield
        return
    del sys.modules[name]
    try:
        yield
    finally:
        sys.modules[name] = module
