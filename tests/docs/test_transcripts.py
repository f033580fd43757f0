"""Transcripts in the documentation are what the bridge answers: their calls are made, with real servers."""

from tests.docs.pages import name_of, pages
from tests.docs.transcripts import differences, play, steps, transcripts
from tests.support.stage import Stage

SCRIPTS = {f"{name_of(page)}:{line}": script for page in pages() for line, script in transcripts(page)}


def test_transcripts_are_what_the_bridge_answers(stage: Stage) -> None:
    """Each answer, but for white space and what the page leaves out with `…`."""
    played = dict(zip(SCRIPTS, play(stage, list(SCRIPTS.values())), strict=True))
    problems = {place: differences(script, played[place]) for place, script in SCRIPTS.items()}
    assert not any(problems.values()), "\n".join(f"{place}: {line}" for place in problems for line in problems[place])


def test_pages_have_transcripts() -> None:
    """The README, and the page about patterns."""
    assert {"README.md", "docs/patterns.md"} <= {place.partition(":")[0] for place in SCRIPTS}


def test_another_answer_is_a_difference() -> None:
    """Also a further future in it, and a missing one; not an earlier delivery."""
    script = steps(
        'a()\n    f1 running\nb(_wait="all")\n    f1 a completed\n    {"a": 1, "b": …}\n    f2 b completed\n'
    )
    assert not differences(script, [["f1 running"], ["f2 b completed", "f1 a completed", '{"a":1,', '"b": [2]}']])
    assert not differences(script, [["f1 running", "f1 a completed", '{"a":1, "b": 3}'], ["f2 b completed"]])
    assert differences(script, [["f1 running"], ["f2 b completed", "f1 a completed", '{"a":2, "b": 3}']])
    assert differences(script, [["f1 running"], ["f1 a completed", '{"a":1, "b": 3}']])
    assert differences(script, [["f1 running", "f9 c"], ["f2 b completed", "f1 a completed", '{"a":1, "b": 3}']])
