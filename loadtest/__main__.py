"""`python -m loadtest`: the same as `parley loadtest`."""

from loadtest.commands import main

if __name__ == "__main__":
    main(prog_name="python -m loadtest")
