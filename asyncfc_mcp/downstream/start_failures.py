"""Error texts for failed starts of wrapped servers.

Owns the translation of exceptions that a start can raise. The cause in a process's output is left to `stderr`, HTTP
errors to `http.failures`.
"""

import os
from typing import cast

from asyncfc_mcp.config.model import HttpSpec, StdioSpec
from asyncfc_mcp.downstream.stderr import Stderr
from asyncfc_mcp.errors import RpcError, ServerDied, ServerUnavailable, TransportFailure
from asyncfc_mcp.quotation import said


def first_exception(exc: BaseException) -> BaseException:
    """Return the first exception in nested groups; an exception that is no group unchanged."""
    while isinstance(exc, BaseExceptionGroup):
        exc = cast("BaseExceptionGroup[BaseException]", exc).exceptions[0]
    return exc


def explain_start_failure(exc: BaseException, spec: StdioSpec | HttpSpec, stderr: Stderr, timeout_s: float) -> str:
    """Return the reason of a failed start for users.

    Args:
        exc: what the start raised; no group.
        timeout_s: the timeout of the handshake.
    """
    match exc:
        case FileNotFoundError() if isinstance(spec, StdioSpec):
            missing = exc.filename or spec.command
            if spec.cwd and missing == spec.cwd:
                return f"its working directory {missing!r} does not exist"
            if "/" in spec.command:
                folder = spec.cwd or os.getcwd()
                return f"command {spec.shown_program} was not found; it was looked for from {folder}"
            return f"command {spec.shown_program} was not found; is it installed and on PATH?"
        case PermissionError() if isinstance(spec, StdioSpec):
            return f"command {spec.shown_program} may not be executed ({exc.strerror})"
        case TimeoutError():
            return f"it did not answer the handshake within {timeout_s:g} s"
        case TransportFailure():
            reason = f"it {exc.message}"
        case RpcError():
            reason = f"it refused the connection: {said(exc.message)} (JSON-RPC error {exc.code})"
        case ServerDied():
            reason = f"it {exc.how} while starting"
        case ServerUnavailable():
            reason = exc.reason
        case _:
            reason = str(exc) or type(exc).__name__
    return stderr.explain(reason)
