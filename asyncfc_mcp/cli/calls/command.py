"""`asyncfc-mcp log`: its options, its source, and exit codes.

Owns what is said on stderr, and the end by Ctrl-C or a closed pipe. Leaves the choice of a source to `finding`, and the
output to `log`.
"""

import os
from functools import partial
from pathlib import Path

import click

from asyncfc_mcp.cli.bridge_options import bridge_options, check_one, token_of
from asyncfc_mcp.cli.process import log_to_stderr, run
from asyncfc_mcp.quotation import for_terminal


@click.command(short_help="Show the calls that bridges have made.")
@bridge_options("the one that was used last")
@click.option("-f", "--follow", is_flag=True, help="Go on with calls as they begin, change their state and end.")
@click.option("--server", "servers", metavar="NAME", multiple=True, help="Calls of this server. Repeatable.")
@click.option("--tool", "tools", metavar="NAME", multiple=True, help="Calls of this tool (server__tool). Repeatable.")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    multiple=True,
    help="Calls in this state: waiting, running, input_required, completed, failed or cancelled. Repeatable.",
)
@click.option("--failed", is_flag=True, help="Calls that have failed: short for --state failed.")
@click.option("--grep", "text", metavar="TEXT", help="Calls with this text in ID, name, tool, failure or values.")
@click.option("--since", metavar="TIME", help="Calls since then: 30m, 1h, 2d, today, yesterday, 2026-11-28T14:30.")
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many calls, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each call.")
def log(
    config_file: Path | None,
    url: str | None,
    auth_token_env: str | None,
    follow: bool,
    servers: tuple[str, ...],
    tools: tuple[str, ...],
    states: tuple[str, ...],
    failed: bool,
    text: str | None,
    since: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Show calls, oldest first: when, from which host, how long each waited (on what) and ran, and how it ended.

    They are read from the journal, also while bridges use it, else from the memory of a daemon or of the bridge at
    --url. Without --since and --limit, the last 100 are shown.
    """
    log_to_stderr(False)
    check_one(config_file, url)
    token = token_of(url, auth_token_env)
    from asyncfc_mcp.cli.calls import log as output
    from asyncfc_mcp.cli.calls.finding import Journal, choose
    from asyncfc_mcp.core.call_query import CallQuery
    from asyncfc_mcp.errors import InvalidQuery

    wanted = (*states, "failed") if failed else states
    given = {"server": servers, "tool": tools, "state": wanted, "text": text or "", "since": since or ""}
    try:
        query = CallQuery.of(given)
    except InvalidQuery as exc:
        option = {"text": "grep"}.get(exc.word, exc.word)
        raise click.BadParameter(exc.problem, param_hint=f"'--{option}'") from None
    choice = choose(config_file, url, os.environ)
    most = limit or (output.LIMIT if since is None else output.MOST)
    # What the encoding of a terminal lacks is replaced.
    stdout = open(1, "w", errors="replace", closefd=False)
    writer = output.Output(stdout, as_json=as_json, following=follow)

    def say(line: str) -> None:
        click.echo(f"asyncfc-mcp: {for_terminal(line)}", err=True)

    async def show() -> tuple[int, bool]:
        if isinstance(choice, Journal):
            from asyncfc_mcp.cli.calls.journal_source import JournalSource

            journal = JournalSource(choice.path)
            if config_file is None:
                say(f"calls in {journal.title}" + ("" if choice.config is None else f" ({choice.config})"))
            return await output.show(journal, query, most, writer, follow=follow)
        from asyncfc_mcp.cli.calls.page_source import PageSource
        from asyncfc_mcp.cli.page_client import PageClient

        connect = partial(PageClient.connect, choice.config, choice.url, token=token)
        async with connect() as client:
            source = PageSource(client, connect, say)
            if config_file is None and url is None:
                say(f"calls of {source.title}")
            return await output.show(source, query, most, writer, follow=follow)

    try:
        count, more = run(show)
        stdout.flush()
    except BrokenPipeError:  # `log | head` has what it wanted
        output.close_pipe(stdout)
        return
    except KeyboardInterrupt:
        if follow:
            return
        raise
    if count == 0:
        say("no such calls" if query != CallQuery() else "no calls yet")
    elif more:
        say(f"older calls are not shown; --limit {10 * most} shows more")
