"""Makes ``python -m echoembed`` the command line."""

from echoembed.cli import main

if __name__ == "__main__":
    main()
