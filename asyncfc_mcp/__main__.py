"""Entry point of the program, as a script and as `python -m asyncfc_mcp`."""

import sys


def main() -> None:
    """Run the command line. A session of a host that shares a daemon loads nothing but `thin`."""
    if "--shared" in sys.argv:
        from asyncfc_mcp.thin.main import run, session_of

        session = session_of(sys.argv[1:])
        if session is not None:
            source, verbose = session
            run(source, verbose=verbose)
            return
    from asyncfc_mcp.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
