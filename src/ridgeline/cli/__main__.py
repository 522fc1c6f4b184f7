"""`python -m ridgeline.cli`."""

from ridgeline.cli import main

if __name__ == "__main__":
    main()
