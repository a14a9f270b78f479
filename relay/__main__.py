"""`python -m relay` is the `relay` command; the supervisor starts its children this way."""

from relay.cli.root import main

if __name__ == "__main__":
    main()
