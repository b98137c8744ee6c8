"""`python -m autopeft` is the command `autopeft`."""

from autopeft.cli.app import main

if __name__ == "__main__":
    main()
