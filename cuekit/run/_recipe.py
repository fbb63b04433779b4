"""The recipe of a run: found by its name, and checked before the first photo."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from cuekit._checks import check_choice
from cuekit.io import Maps

Recipe: TypeAlias = Callable[..., Any]


def load_recipe(name: str) -> Recipe:
    """Return a recipe of `cuekit.recipes`, or the function that ``"module:function"`` means."""
    module_name, colon, function_name = name.rpartition(":")
    if not colon:
        from cuekit import recipes

        plain = name.replace("-", "_")
        shown = {each.replace("_", "-"): each for each in recipes.RECIPES}
        check_choice(plain.replace("_", "-"), "recipe", tuple(shown))
        return recipes.RECIPES[plain]
    if "/" in module_name or module_name.endswith(".py"):
        module = Path(module_name).stem
        raise ValueError(
            f"recipe must name a module, not a file, got {name!r}: pass {module}:{function_name}, "
            "in the folder of the file or with that folder in PYTHONPATH"
        )
    if "" not in sys.path and os.getcwd() not in sys.path:  # noqa: PTH109 - text, as in sys.path
        sys.path.insert(0, "")  # as `python -m` does; the command has the folder of programs there
    try:
        found = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"recipe {name!r} must be a function in a module, got: {error}") from error
    if not callable(found):
        raise TypeError(f"recipe {name!r} must be a function, got {found!r}")
    function: Recipe = found
    return function


def recipe_name(recipe: str | Recipe) -> str:
    """Return the name by which a worker process finds a recipe."""
    if isinstance(recipe, str):
        return recipe if ":" in recipe else recipe.replace("_", "-")
    if not callable(recipe):
        raise TypeError(f"recipe must be a name or a function, got {recipe!r}")
    module, name = getattr(recipe, "__module__", None), getattr(recipe, "__qualname__", None)
    if not module or not name:
        raise TypeError(f"recipe must be a function with a name, got {recipe!r}")
    return f"{module}:{name}"


def takes_batches(recipe: Recipe) -> bool:
    """Return whether a recipe takes lists: its first parameter is named ``photos``."""
    return next(iter(inspect.signature(recipe).parameters), None) == "photos"


def check_importable(recipe: Recipe) -> None:
    """Refuse a function that worker processes cannot import."""
    name = recipe_name(recipe)
    module = sys.modules.get(name.partition(":")[0])
    if name.startswith("__main__:") or getattr(module, recipe.__name__, None) is not recipe:
        raise ValueError(
            f"recipe must be a function of a module for jobs > 1, which worker processes can "
            f"import, got {name}; put it into a file of its own, or pass jobs=1"
        )


def check_options(recipe: Recipe, options: dict[str, Any], name: str, has_masks: bool) -> None:
    """Refuse options that a recipe does not have, and options that it lacks."""
    parameters = inspect.signature(recipe).parameters.values()
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    for option in options:
        if option == "masks" or (option not in known and not takes_all):
            raise ValueError(
                f"options must be those of recipe {name}, {', '.join(known) or 'none'}, "
                f"got {option!r}"
            )
    if has_masks and "masks" not in known:
        raise ValueError(f"masks must be left out for a recipe that takes none, such as {name}")
    needed = [
        each.name
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
        and each.default is each.empty
        and each.name not in options
        and not (each.name == "masks" and has_masks)
    ]
    if needed:
        raise ValueError(f"recipe {name} needs {', '.join(needed)}")
    if (getattr(recipe, "__module__", "") or "").startswith("cuekit.recipes."):
        _try(recipe, options, has_masks)


def _try(recipe: Recipe, options: dict[str, Any], has_masks: bool) -> None:
    """Refuse values of options with which all photos would fail, before the first one."""
    side = 8
    flat = np.full((side, side), 0.5, np.float32)
    maps = Maps(flat[None], np.array([1]), flat, "trial", features=flat[None])
    masks = {"masks": np.ones((1, side, side), bool)} if has_masks else {}
    recipe(np.zeros((side, side, 3), np.uint8), maps, **options, **masks)


def source_hash(recipe: Recipe) -> str | None:
    """Return the checksum of the file that a recipe is in; None for cuekit's own."""
    if (getattr(recipe, "__module__", "") or "").startswith("cuekit."):
        return None
    try:
        file = inspect.getsourcefile(recipe)
        content = Path(file).read_bytes() if file and Path(file).is_file() else None
        content = content or inspect.getsource(recipe).encode()
    except (OSError, TypeError):
        raise ValueError(
            f"recipe must be in a file, so that a change of it is noticed, got {recipe!r}"
        ) from None
    return hashlib.sha256(content).hexdigest()
