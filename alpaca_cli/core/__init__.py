"""What every room shares: errors, records, recipe, journal, run folder, template, progress.

Nothing here knows about stages, teachers, torch or Typer.
"""
