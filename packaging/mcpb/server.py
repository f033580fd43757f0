"""Entry point of the bundle: the command line of the installed package."""

from asyncfc_mcp.cli.main import main

if __name__ == "__main__":
    main()
