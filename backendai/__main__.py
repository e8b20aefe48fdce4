"""``python -m backendai``: the same as the command ``backendai``."""

from backendai.cli.main import main

if __name__ == "__main__":
    main()
