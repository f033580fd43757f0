"""Backoff: pauses that grow while something is repeated.

Pure. Owns the arithmetic and its state; the caller has the clock and waits.
"""


class Backoff:
    """Delay that doubles with every use, up to a maximum.

    Args:
        first: first delay, in seconds.
        longest: maximum delay, in seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def next(self) -> float:
        """Return the current delay, and double the next one."""
        delay, self._next = self._next, min(2 * self._next, self._longest)
        return delay

    def reset(self) -> None:
        """Start with the first delay again."""
        self._next = self._first


class Throttle:
    """Pauses between runs that may be requested at any time, in any number.

    The first run is not delayed. While runs follow each other directly, the pause doubles up to `longest`; after an
    idle time of more than twice the pause plus one second, the next run is again not delayed.

    Args:
        first: pause after the first run, in seconds.
        longest: maximum pause, in seconds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._pause = 0.0
        self._ended = float("-inf")

    def remaining(self, now: float) -> float:
        """Return the seconds until the next run may begin; `now` is the caller's monotonic clock."""
        return max(0.0, self._ended + self._pause - now)

    def record_run(self, now: float) -> None:
        """Record that a run ended at `now`."""
        idle = now - self._ended > 2 * self._pause + 1
        self._pause = self._first if idle or not self._pause else min(2 * self._pause, self._longest)
        self._ended = now


class ReconnectBackoff:
    """Pauses between streams that a server ends, each of which resumes the one before.

    A server may specify the pause; otherwise it doubles with each stream without news. In both cases there is a
    minimum, which doubles with each short stream, with or without news: a server that specifies a pause of zero and
    ends its stream after every event is eventually asked only once in `first` seconds.

    Args:
        least: minimum pause after the first stream, in seconds.
        first: pause where the server specifies none, and maximum of the minimum while streams have news.
        longest: maximum pause where the server specifies none.
        longest_least: maximum of the minimum.
        served: duration in seconds from which a stream resets all pauses.
    """

    def __init__(self, least: float, first: float, longest: float, longest_least: float, served: float) -> None:
        self._shortest, self._first, self._longest = least, first, longest
        self._longest_least, self._served = longest_least, served
        self._least, self._own = least, first

    def pause(self, lasted: float, *, news: bool, named: float | None) -> float:
        """Return the seconds until the next stream may be opened, after one has ended.

        Args:
            lasted: duration of the stream in seconds.
            news: it delivered new messages.
            named: pause that the server specifies; None without one.
        """
        if lasted >= self._served:
            self._least, self._own = self._shortest, self._first
        elif news:
            self._own = self._first
            # Little is missed of a stream that lasts much longer than the pause after it.
            self._least = self._shortest if lasted > self._least + 1 else min(self._least, self._first)
        pause = max(self._own if named is None else named, self._least)
        self._own = min(2 * self._own, self._longest)
        self._least = min(2 * self._least, self._first if news else self._longest_least)
        return pause
