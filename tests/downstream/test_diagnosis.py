"""Why a server ended: one short line with the cause first, whatever runtime wrote it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncfc_mcp.downstream.diagnosis import CAUSE_LENGTH, cause, explained

PYTHON = """\
Traceback (most recent call last):
  File "/app/server.py", line 3, in <module>
    import nope
ModuleNotFoundError: No module named 'nope'"""
CHAINED = """\
Traceback (most recent call last):
  File "/app/a.py", line 3, in <module>
    x["K"]
KeyError: 'K'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/b.py", line 9, in <module>
    main()
RuntimeError: set API_KEY"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/app/a.py", line 3, in <module>
  |     run()
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/app/c.py", line 7, in f
    |     raise ValueError("bad port")
    | ValueError: bad port
    +------------------------------------"""
PYDANTIC = """\
  File "/app/c.py", line 7, in f
pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings
api_key
  Field required"""
BARE = """\
Traceback (most recent call last):
  File "/app/server.py", line 3, in <module>
    raise KeyboardInterrupt
KeyboardInterrupt"""
SYNTAX = """\
  File "/app/x.py", line 1
    def (
        ^
SyntaxError: invalid syntax"""
NODE = """\
node:internal/modules/cjs/loader:1228
  throw err;
  ^

Error: Cannot find module 'left-pad'
    at Module._resolveFilename (node:internal/modules/cjs/loader:1225:15)
    at Object.<anonymous> (/app/dist/index.js:12:3) {
  code: 'MODULE_NOT_FOUND'
}

Node.js v20.1.0"""
NODE_CODE = """\
TypeError [ERR_INVALID_URL]: Invalid URL
    at new URL (node:internal/url:797:36)
    at file:///app/index.mjs:4:1"""
NPM = """\
npm error code E404
npm error 404 Not Found - GET https://registry.npmjs.org/nope - Not found
npm error 404
npm error A complete log of this run can be found in: /root/.npm/_logs/x.log"""
UV = """\
  × No solution found when resolving tool dependencies:
  ╰─▶ Because nope was not found"""
MISSING = "python: can't open file '/x.py': [Errno 2] No such file or directory"
RUST = """\
thread 'main' panicked at src/main.rs:10:5:
no API key
note: run with `RUST_BACKTRACE=1`"""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (PYTHON, "ModuleNotFoundError: No module named 'nope' (server.py, line 3)"),
        (CHAINED, "RuntimeError: set API_KEY (b.py, line 9)"),
        (GROUP, "ValueError: bad port (c.py, line 7)"),
        (PYDANTIC, "ValidationError: 1 validation error for Settings api_key Field required (c.py, line 7)"),
        (BARE, "KeyboardInterrupt (server.py, line 3)"),
        (SYNTAX, "SyntaxError: invalid syntax (x.py, line 1)"),
        (NODE, "Error: Cannot find module 'left-pad' (index.js, line 12)"),
        (NODE_CODE, "TypeError: Invalid URL (index.mjs, line 4)"),
        (NPM, "npm: E404: 404 Not Found - GET https://registry.npmjs.org/nope - Not found"),
        (UV, "× No solution found when resolving tool dependencies: Because nope was not found"),
        (RUST, "panic: no API key (src/main.rs:10:5)"),
        ("panic: open x: no such file\n\ngoroutine 1 [running]:\nmain.main()", "panic: open x: no such file"),
        ('Exception in thread "main" java.lang.NoKeyException: no key\n\tat A.main()', "NoKeyException: no key"),
        ("sh: 1: nope: not found", "sh: 1: nope: not found"),
        (MISSING, MISSING),
        ("starting\n\x1b[31mError: API_KEY is required\x1b[0m\nbye", "Error: API_KEY is required"),
        ("docker: Error response from daemon: no\nRun 'x --help'", "docker: Error response from daemon: no"),
        ("starting\nready\nlistening", None),
        ("Error", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_cause_is_found(written: str, expected: str | None) -> None:
    """Python, Node, npm, uv, Rust, Go, Java, shells and containers; none is made up."""
    assert cause(written.split("\n")) == expected


def test_the_cause_stands_first() -> None:
    """Then how the process ended; where no line says why, the last one."""
    how = "it exited with code 1 while starting"
    assert (
        explained(how, PYTHON.splitlines()) == f"ModuleNotFoundError: No module named 'nope' (server.py, line 3); {how}"
    )
    assert explained(how, ["hello", "  ", ""]) == f"{how}; its last line on stderr: hello"
    assert explained(how, []) == how


@given(
    st.lists(st.text(max_size=2000) | st.sampled_from([*PYTHON.splitlines(), *NODE.splitlines(), *GROUP.splitlines()]))
)
def test_whatever_a_server_writes_its_reason_is_one_bounded_line(lines: list[str]) -> None:
    """No control character reaches a terminal or a model, and no output makes a reason long."""
    said = explained("it ended", lines)
    assert said.isprintable()
    assert len(said) <= CAUSE_LENGTH + 60
