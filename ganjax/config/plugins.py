"""Losses, networks, data sets and more from files or packages outside ganjax.

A plugin is a Python file (a recipe, a script) or an installed package that calls `ganjax.register_loss` and the like.
This module knows which file registered what; `plugin_record.py` keeps it in a run's folder. Nothing here imports JAX.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ganjax.config import names
from ganjax.runtime.errors import DivergedError, PeerError, UserError
from ganjax.runtime.files import cache_dir, replace_file

GROUP = "ganjax.plugins"  # of the entry points of packages
NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED = ("none", "ada")
# kind → where a config looks for its names, and the option that takes them.
KINDS: dict[str, tuple[dict[str, names.Facts], str]] = {
    "loss": (names.LOSSES, "loss.name"),
    "penalty": (names.PENALTIES, "penalty.name"),
    "model": (names.FAMILIES, "model.name"),
    "dataset": (names.DATASETS, "data.name"),
    "augmentation": (names.POLICIES, "augment.policy"),
    "metric": (names.MEASURES, "eval.metrics"),
    "feature_network": ({}, "data.name"),
}


@dataclass(frozen=True)
class Source:
    """Origin of something registered.

    Attributes:
      path: the file; or the name that Python has for a cell of a notebook or a prompt.
      sha256: the hash of its content, in hex; empty where there is no file.
      text: its content.
      module: the module's name where it belongs to a package, and so must be imported; else empty.
    """

    path: str
    sha256: str
    text: str = dataclasses.field(repr=False)
    module: str = ""


@dataclass(frozen=True)
class Place:
    """Line of a source."""

    source: Source
    line: int

    def __str__(self) -> str:
        return f"{self.source.path}:{self.line}"


Own = TypeVar("Own", bound=Callable[..., Any])
Problem = Callable[..., str]
ENTRIES: dict[tuple[str, str], Place] = {}  # (kind, name) → where it was registered
SOURCES: dict[str, Source] = {}  # of files that were run from a text
_running: list[str] = []  # files that are being loaded


def register(kind: str, name: str, registry: MutableMapping[str, Any], entry: Any, place: Place) -> None:
    """Adds `entry` to a registry of the package, its facts to those that a config knows, and notes its place.

    Whoever registers a name may do so again, with something else: a cell is run twice, a module is loaded anew.

    Raises:
      UserError: the name is none, or taken by ganjax or by another file.
    """
    known, _ = KINDS[kind]
    before = ENTRIES.get((kind, name))
    if not NAME.fullmatch(name):
        raise UserError(f"{place}: the name of a {kind} is made of a-z, 0-9 and _, and this one is {name!r}.")
    if before is None and (name in registry or name in RESERVED):
        raise UserError(f"{place}: ganjax has a {kind} called {name!r} itself; choose another name.")
    is_other = before is not None and before.source.path != place.source.path
    if before is not None and is_other and before.source.sha256 != place.source.sha256:
        raise UserError(
            f"{place}: a {kind} called {name!r} is there already, from {before}. Choose another name, or use one of "
            "the two files at a time."
        )
    facts = vars(entry) if dataclasses.is_dataclass(entry) else {}
    registry[name] = entry
    known[name] = {key: value for key, value in facts.items() if not callable(value)}
    if kind == "metric":
        names.add_numbers(name, entry.higher_is_better)
    ENTRIES[kind, name] = place
    if place.source.sha256 and not (trusted_folder() / place.source.sha256).exists():
        with contextlib.suppress(OSError):
            trusted_folder().mkdir(parents=True, exist_ok=True)
            replace_file(trusted_folder() / place.source.sha256, b"")


def place_of_caller() -> Place:
    """Returns the line outside the package that called."""
    frame, own = sys._getframe(1), f"{names.PACKAGE}{os.sep}"
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    path = frame.f_code.co_filename
    package = frame.f_globals.get("__package__") or ""
    return Place(source_of(path, frame.f_globals["__name__"] if package else ""), frame.f_lineno)


def source_of(path: str, module: str = "") -> Source:
    """Returns the source at `path`, without a hash where there is no such file."""
    if path in SOURCES:
        return SOURCES[path]
    try:
        data = Path(path).read_bytes()
    except OSError:
        return Source(path, "", "".join(linecache.getlines(path)))
    return Source(
        os.path.abspath(path), hashlib.sha256(data).hexdigest(), data.decode(errors="replace"), module
    )


def checked(
    kind: str, name: str, place: Place, call: Callable[..., Any], problem: Problem
) -> Callable[..., Any]:
    """Returns `call`, with what it raises, or gives that is wrong, as a `UserError` that says the plugin's line."""

    def guard(*args: Any, **options: Any) -> Any:
        try:
            with blamed(f"the {kind} {name!r}", place):
                found = call(*args, **options)
        except UserError as error:  # of ganjax, about what the plugin gave it
            if place.source.path in str(error):
                raise
            raise UserError(f"{place}: the {kind} {name!r}: {error}") from error
        if wrong := problem(found, *args):
            raise UserError(f"{place}: the {kind} {name!r} {wrong}.")
        return found

    return guard


def decorator(
    kind: str,
    name: str,
    registry: MutableMapping[str, Any],
    problem: Problem,
    entry: Callable[[Callable[..., Any]], Any] = lambda call: call,
) -> Callable[[Own], Own]:
    """Returns a decorator that registers a function.

    Args:
      kind, name, registry: see `register`.
      problem: what the function gave, and what it took → the end of a sentence that says what it should give and what
        it gave; empty where that is right.
      entry: the function, checked → what stands in the registry.
    """

    def add(own: Own) -> Own:
        place = place_of_caller()
        register(kind, name, registry, entry(checked(kind, name, place, own, problem)), place)
        return own

    return add


def shown(value: Any) -> str:
    """Returns what a plugin gave, in words: the dtype and shape of an array, else the type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    inside = f" of {', '.join(map(shown, value))}" if isinstance(value, tuple) else ""
    return f"{type(value).__name__}{inside}"


@contextlib.contextmanager
def blamed(what: str = "", place: Place | None = None) -> Iterator[None]:
    """Turns an error that a plugin's code raised into a `UserError` with the file and the line.

    Args:
      what: the thing that failed, in words.
      place: the place to name where none of the plugins' lines took part; without it such an error stays as it is.
    """
    try:
        yield
    except (UserError, DivergedError, PeerError):
        raise
    except Exception as error:
        files = {known.source.path for known in ENTRIES.values()} | {place.source.path if place else ""}
        at = [
            f"{f.filename}:{f.lineno}"
            for f in traceback.extract_tb(error.__traceback__)
            if f.filename in files
        ]
        if not at and place is None:
            raise
        text = " ".join(str(error).split())[:500]
        raise UserError(
            f"{at[-1] if at else place}: {what or 'a plugin'} failed: {type(error).__name__}: {text}"
        ) from error


def run_file(path: Path, what: str = "plugin") -> ModuleType:
    """Runs a Python file and returns it as a module.

    Raises:
      UserError: it is not there, no Python file, or fails; the message says in which line.
    """
    if path.suffix != ".py":
        raise UserError(f"The {what} {str(path)!r} is not a Python file (expected a name ending in .py).")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"The {what} {str(path)!r} cannot be read: {error}") from None
    return run_text(text, os.path.abspath(path), what)


def run_text(text: str, path: str, what: str) -> ModuleType:
    """Runs the text of the file `path` and returns it as a module.

    Raises:
      UserError: it fails; the message says in which line.
    """
    name = f"ganjax_{what}_{Path(path).stem}"
    module = ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses, and so networks, look their module up
    _running.append(path)
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except UserError:
        raise
    except Exception as error:
        raise failure(error, path, what) from error
    finally:
        _running.pop()
    return module


def refuse_while_loading() -> None:
    """Raises a `UserError` where a file that is being loaded wants to train: each sample of its run would train."""
    if _running:
        raise UserError(
            f'{_running[-1]} trains while it is loaded: put what trains under `if __name__ == "__main__":`.'
        )


def failure(error: Exception, path: str, what: str) -> UserError:
    """Returns the message about an error that the code of a file raised, with the file's last line that took part."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == os.path.abspath(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    at = f"{path}:{line}" if line else path
    return UserError(f"The {what} {at} failed: {type(error).__name__}: {error}")


@functools.cache
def load_packages() -> None:
    """Imports what installed packages name as their entry points of the group `ganjax.plugins`, once a process.

    Raises:
      UserError: one cannot be imported.
    """
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except UserError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            package = point.dist.name if point.dist else "a package"
            raise UserError(
                f"The plugin {point.value!r} of {package} cannot be loaded ({last.filename}:{last.lineno}): "
                f"{type(error).__name__}: {error}. Mend or uninstall {package}."
            ) from error


def trusted_folder() -> Path:
    """Returns the folder with an empty file for each plugin that this user has run, named by its hash."""
    return cache_dir("plugins")
