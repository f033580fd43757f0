"""`python -m asyncfc_mcp`."""

from asyncfc_mcp.cli.main import main

if __name__ == "__main__":
    main()
