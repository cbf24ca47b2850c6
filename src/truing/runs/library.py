"""Ready recipes that ship with truing, and how a name or a path becomes a recipe's text."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from truing.errors import RecipeError
from truing.near import near

SUFFIXES = (".yaml", ".yml")


def recipe_names() -> list[str]:
    """Names of the ready recipes, ``quickstart`` first."""
    names = [item.name[: -len(".yaml")] for item in files("truing.recipes").iterdir() if item.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name != "quickstart", name))


def find_recipe(name_or_path: str | Path) -> tuple[str, str]:
    """The name and the text of a recipe.

    Args:
        name_or_path: the name of a ready recipe, or a YAML file. A name with a slash or a YAML ending is a file.

    Returns:
        the name (for a file its name without the ending) and the YAML text.

    Raises:
        RecipeError: there is no such recipe; the nearest name is suggested.
    """
    given = str(name_or_path)
    path = Path(given)
    if "/" in given or path.suffix in SUFFIXES or isinstance(name_or_path, Path):
        if path.is_dir():
            path = path / "recipe.yaml"
        if not path.is_file():
            hint = near(path.stem, recipe_names())
            raise RecipeError(f"There is no recipe file {given}.{hint} Ready recipes: {', '.join(recipe_names())}.")
        try:
            return path.stem if path.stem != "recipe" else path.resolve().parent.name, path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{given}: the recipe cannot be read: {error}.") from None
    wanted = given.replace("_", "-").lower()
    if wanted not in recipe_names():
        beside = f" There is a file or folder of that name here: write ./{given} to run it." if path.exists() else ""
        raise RecipeError(
            f"There is no ready recipe `{given}`.{near(wanted, recipe_names())}{beside} "
            f"Ready recipes: {', '.join(recipe_names())}."
        )
    return wanted, files("truing.recipes").joinpath(f"{wanted}.yaml").read_text(encoding="utf-8")
