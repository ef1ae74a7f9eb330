"""The text side: formats, seeds, prompts, parsing, filters, teachers, ROUGE-L, lint, report.

Never imports `alpaca_cli.model`, torch or transformers.
"""
