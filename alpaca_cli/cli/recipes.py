"""`alpaca recipes`: list, show, copy, validate, and the JSON Schema for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpaca_cli.cli.options import SetOption, print_json

app = typer.Typer(
    name="recipes", help="List, show, copy and validate recipes.", no_args_is_help=True
)

RecipeArgument = Annotated[str, typer.Argument(metavar="NAME|FILE", help="Recipe name or file.")]


@app.command("list")
def list_recipes(
    json: Annotated[bool, typer.Option("--json", help="One JSON array on stdout.")] = False,
) -> None:
    """The recipes that come with alpaca."""
    from rich.console import Console
    from rich.table import Table

    from alpaca_cli.core.recipe import load_recipe, shipped_recipes

    shipped = [load_recipe(str(path), environment={}) for path in shipped_recipes()]
    if json:
        print_json([{"name": recipe.name, "description": recipe.description} for recipe in shipped])
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("what it does")
    for recipe in shipped:
        table.add_row(recipe.name, recipe.description)
    Console().print(table)


@app.command("show")
def show(
    recipe: RecipeArgument,
    sets: SetOption = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Every key, after extends, environment and --set.")
    ] = False,
) -> None:
    """Print a recipe: as written, or resolved."""
    from alpaca_cli.core.recipe import dump_recipe, find_recipe, load_recipe

    if resolved or sets:
        text = dump_recipe(load_recipe(recipe, overrides=sets or ()))
    else:
        text = find_recipe(recipe).read_text("utf-8")
    typer.echo(text, nl=False)


@app.command("copy")
def copy(
    recipe: RecipeArgument,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy.")],
) -> None:
    """Copy a recipe to a file of your own; never over one that exists."""
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.core.files import write_text
    from alpaca_cli.core.recipe import find_recipe

    source = find_recipe(recipe)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UsageError(f"{target}: exists already", hint="name another file")
    write_text(target, source.read_text("utf-8"))
    typer.echo(str(target))


@app.command("validate")
def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="NAME|FILE...", help="Recipes.")],
    sets: SetOption = None,
) -> None:
    """Check recipes; every mistake is listed with file and line."""
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.core.recipe import load_recipe

    mistakes = []
    for recipe in recipes:
        try:
            name = load_recipe(recipe, overrides=sets or ()).name
        except UsageError as error:
            mistakes.append(str(error))
        else:
            typer.echo(f"{recipe}: ok ({name})")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint="alpaca recipes schema lists every key")


@app.command("schema")
def schema() -> None:
    """The JSON Schema of a recipe, for editors: every key with its type and meaning."""
    from alpaca_cli.core.settings import Recipe

    document = Recipe.model_json_schema()
    # Read before validation, so no field of the model.
    document["properties"]["extends"] = {
        "type": "string",
        "description": "Another recipe, by name or path; this one's keys go over its keys.",
    }
    print_json(document)
