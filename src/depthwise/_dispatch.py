"""Which library an argument's array belongs to, found by name so that no framework is imported in vain.

An adapter is a module that offers the public functions with the same signatures for its own kind of array.
It is imported when the first such array arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])


# Each import is a statement of its own, which PyTorch's compiler can follow.
def _torch() -> Any:
    from ._torch import functions

    return functions


def _jax() -> Any:
    from . import jax

    return jax


def _tensorflow() -> Any:
    from . import tensorflow

    return tensorflow


def _dask() -> Any:
    from . import dask

    return dask


# Top-level package of an array's class -> what imports the module that handles it.
ADAPTERS: dict[str, Callable[[], Any]] = {
    "torch": _torch,
    "jax": _jax,
    "jaxlib": _jax,
    "tensorflow": _tensorflow,
    "dask": _dask,
}
_ALIASES = {"jaxlib": "jax"}  # JAX's arrays come from either
_TAKES_NUMPY = frozenset({"dask"})  # adapters that take NumPy arrays beside their own
_LOADED: dict[str, Any] = {}
_KINDS: dict[type, str] = {}  # what `array_kind` found out about classes of arrays; NumPy's need no look-up


def leave_as_is(function: Function) -> Function:
    """Keep TensorFlow's AutoGraph from rewriting a public function, which would break its `locals()`.

    What `tf.autograph.experimental.do_not_convert` does, without importing TensorFlow.
    """
    function.autograph_info__ = {}  # type: ignore[attr-defined]
    return function


def redirect(
    function: Callable[..., Any], arguments: dict[str, Any], *array_names: str, optional: str | None = None
) -> Any:
    """Call `function` of the module that handles these arrays.

    Parameters
    ----------
    function : callable
        A public function that was given something else than plain NumPy arrays.
    arguments : dict
        All its arguments by name.
    *array_names : str
        Which of them are arrays.
    optional : str, optional
        Another one that is an array or None.

    Raises
    ------
    TypeError
        If an argument is no array of a known kind, or two are of kinds that do not go together.
    """
    if optional is not None and arguments[optional] is not None:
        array_names += (optional,)
    kind = _common_kind(arguments, array_names)
    if kind != "numpy":
        return getattr(adapter(kind), function.__name__)(**arguments)
    return function(**arguments | {name: arguments[name].view(np.ndarray) for name in array_names})


def adapter(kind: str) -> Any:
    """The module that handles a package's arrays."""
    return _LOADED.get(kind) or _LOADED.setdefault(kind, ADAPTERS[kind]())


def _common_kind(arguments: dict[str, Any], array_names: tuple[str, ...]) -> str:
    """The one kind of these arguments, where NumPy arrays may stand beside some others."""
    first = array_names[0]
    kind = array_kind(first, arguments[first])
    for name in array_names[1:]:
        other = array_kind(name, arguments[name])
        if kind == "numpy" and other in _TAKES_NUMPY:
            kind = other
        if other != kind and not (other == "numpy" and kind in _TAKES_NUMPY):
            raise TypeError(
                f"{first} and {name} must be arrays of one library, got {_described(arguments[first])} "
                f"and {_described(arguments[name])}"
            )
    return kind


def as_plain_array(name: str, array: Any) -> np.ndarray[Any, Any]:
    """A NumPy array as its base class, without copying; anything else is a TypeError."""
    if type(array) is np.ndarray:
        return array
    if array_kind(name, array) != "numpy":
        raise TypeError(f"{name} must be a NumPy array, got {_described(array)}")
    plain: np.ndarray[Any, Any] = array.view(np.ndarray)
    return plain


def array_kind(name: str, array: Any) -> str:
    """ "numpy", or the package whose adapter handles the array."""
    kind = _KINDS.get(type(array))
    if kind is not None:
        return kind
    package: str = type(array).__module__.partition(".")[0]
    if package in ADAPTERS:
        return _KINDS.setdefault(type(array), _ALIASES.get(package, package))
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} must not be a masked array, since its mask would be ignored; "
            "pass its data, or filled(0) where masked elements shall not count"
        )
    if isinstance(array, np.ndarray):
        return "numpy"
    for base in type(array).__mro__[1:]:
        package = base.__module__.partition(".")[0]
        if package in ADAPTERS:
            return _ALIASES.get(package, package)
    frameworks = dict.fromkeys(_ALIASES.get(package, package) for package in ADAPTERS)
    expected = " or ".join(["a NumPy array", *(f"a {framework} array" for framework in frameworks)])
    raise TypeError(f"{name} must be {expected}, got {_described(array)}")


def _described(array: Any) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"
