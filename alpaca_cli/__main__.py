"""`python -m alpaca_cli`: the same entry point as the `alpaca` command."""

from alpaca_cli.cli import main

if __name__ == "__main__":
    main()
