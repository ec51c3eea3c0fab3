"""Replies come from a model: whatever stands in them, reading never raises, is linear and means one thing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgym import INVALID, dialogue, prompt, read_reply, write_reply
from jaxgym.dialogue import BLOCKS, Reply

NOTHING = Reply(perception=None, think=None, answer=None, action=INVALID, formatted=False)
TAGS = [f"<{slash}{name}>" for name in BLOCKS for slash in ("", "/")]
SCRAPS = [*TAGS, "left", "right", " ", "\n", "<", ">", "/", "answer", "<ANSWER>", "(0, 0) (0, 1)", "\x00", "٣", "None"]


def test_a_good_reply(corridor):
    text = write_reply("floor | walker", "the end is to the right", "right")
    expected = Reply(
        perception="floor | walker", think="the end is to the right", answer="right", action=1, formatted=True
    )
    assert read_reply(corridor, text) == expected
    assert read_reply(corridor, f"\n {text} \n") == expected


def test_every_action_survives_a_reply(game):
    for action in range(0, game.actions.n, 7):
        reply = read_reply(game, write_reply("a | b\nc | d", "why", game.actions.format(action)))
        assert reply.action == action and reply.formatted


plain = st.text(st.characters(exclude_characters="<", exclude_categories=("Cs",)), max_size=200)


@given(perception=plain, think=plain, answer=plain)
def test_write_and_read_are_inverse(corridor, perception, think, answer):
    reply = read_reply(corridor, write_reply(perception, think, answer))
    assert (reply.perception, reply.think, reply.answer) == (perception, think, answer)
    assert reply.formatted
    assert reply.action == corridor.actions.parse(answer)


@pytest.mark.parametrize(
    ("text", "action", "formatted"),
    [
        ("<answer>right</answer>", 1, False),
        ("I say <answer> RIGHT </answer> and no more", 1, False),
        ("<think>t</think><perception>p</perception><answer>right</answer>", 1, False),
        ("<perception>p</perception><think>t</think>oh<answer>right</answer>", 1, False),
        ("well: <perception>p</perception><think>t</think><answer>right</answer>", 1, False),
        ("<perception>p</perception><think>t</think><answer>right</answer>!", 1, False),
        ("<perception>p</perception>\n<think>t</think>\n\n<answer>right</answer>\n", 1, True),
        ("<perception>p</perception><think>1 < 2</think><answer>right</answer>", 1, True),
        ("<perception></perception><think></think><answer></answer>", INVALID, True),
        ("<perception>p</perception><think>t</think><answer>fly</answer>", INVALID, True),
        ("<perception>p</perception><think>t</think><answer>right", INVALID, False),
        ("<perception>p</perception><think>t</think></answer>right<answer>", INVALID, False),
        ("<perception>p</perception><think>t</think><answer>right</answer><answer>left</answer>", INVALID, False),
        ("<perception>p</perception><think>t</think><answer><answer>right</answer></answer>", INVALID, False),
        ("<perception>p<think>t</think></perception><answer>right</answer>", 1, False),
        ("<perception>p</perception><think>t<answer>right</answer></think>", 1, False),
        ("<perception>p</perception><think>a</think><think>b</think><answer>right</answer>", 1, False),
        ("<perception>p</perception><think>a<think>b</think><answer>right</answer>", 1, False),
        ("<perception>p</perception><think>a</think></think><answer>right</answer>", 1, False),
        ("<Perception>p</Perception><think>t</think><answer>right</answer>", 1, False),
        ("<perception>p</perception><think</think><answer>right</answer>", 1, False),
        ("<perception</perception><think>t</think><answer>right</answer>", 1, False),
        ("right", INVALID, False),
        ("", INVALID, False),
        ("None", INVALID, False),
        ("<answer>None</answer>", INVALID, False),
        ("<answer>" + "9" * 5000 + "</answer>", INVALID, False),
        ("<answer>ｒｉｇｈｔ</answer>", INVALID, False),  # noqa: RUF001
        ("<answer>\ud83d</answer>", INVALID, False),
    ],
)
def test_what_counts(corridor, text, action, formatted):
    reply = read_reply(corridor, text)
    assert (reply.action, reply.formatted) == (action, formatted)


def test_a_block_that_does_not_stand_once_is_none(corridor):
    reply = read_reply(corridor, "<think>a</think><think>b</think><answer>left</answer>")
    assert (reply.perception, reply.think, reply.answer) == (None, None, "left")


@pytest.mark.parametrize("value", [None, 3, b"<answer>left</answer>", ["left"]])
def test_what_is_no_text_is_no_reply(corridor, value):
    assert read_reply(corridor, value) == NOTHING


@given(text=st.one_of(st.text(), st.lists(st.sampled_from(SCRAPS), max_size=40).map("".join)))
def test_reading_never_raises_and_is_consistent(corridor, text):
    reply = read_reply(corridor, text)
    assert reply.action in (INVALID, 0, 1)
    if reply.formatted:
        assert None not in (reply.perception, reply.think, reply.answer)
        assert all(text.count(tag) == 1 for tag in TAGS)
        assert sorted(TAGS, key=text.find) == TAGS
    if reply.answer is None:
        assert reply.action == INVALID
    else:
        assert reply.answer in text


pieces = st.lists(st.sampled_from(["", " ", "\n", "p", "<", "\xa0"]), min_size=8, max_size=8)


@given(pieces=pieces, tags=st.one_of(st.just(TAGS), st.permutations(TAGS)))
def test_the_short_way_says_what_the_long_way_does(pieces, tags):
    """Nearly every reply is well-formed and is read without searching it for each tag."""
    text = "".join(part for pair in zip(pieces, [*tags, ""], strict=False) for part in pair)
    inner, formatted = dialogue._parts(text)
    assert dialogue._whole(text) in (None, inner)
    if "<" not in pieces:
        assert (dialogue._whole(text) is not None) == formatted


@pytest.mark.parametrize("scrap", [*TAGS, "<answer>" + "x" * 50, "<", " ", "<answer></answer>", "(0, 0) (0, 1) "])
@pytest.mark.parametrize("size", [60_000, 10_000_000])
def test_megabytes_take_no_time(corridor, scrap, size):
    start = time.perf_counter()
    reply = read_reply(corridor, scrap * (size // len(scrap)))
    assert time.perf_counter() - start < 0.5
    assert reply.action == INVALID and not reply.formatted


def test_an_endless_answer_is_unreadable(corridor):
    assert read_reply(corridor, f"<answer>{' ' * 50_000}right</answer>").action == INVALID


def test_prompt_ends_where_the_reply_begins(corridor):
    text = prompt(corridor)
    assert text.startswith(corridor.rules) and text.endswith("\n")
