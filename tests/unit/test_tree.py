"""The tree against a plain list, layouts against plain decoding, and what hostile files say."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_tui.session.tree import GAP, Layout, Place, Tree
from qwen_tui.types import Added, Token, text_of


def letter(value: int) -> Token:
    return Token(value, bytes([97 + value % 26]))


def grown(tree: Tree, id: str, parent: str | None, at: int, text: str) -> str:
    tokens = tuple(Token(ord(c), c.encode()) for c in text)
    tree.add(Added(id, parent, at, "user", tokens=tokens))
    return id


def test_five_thousand_random_forks_agree_with_a_plain_list() -> None:
    draw = random.Random(7)
    tree = Tree()
    plain: dict[str | None, list[Token]] = {None: []}
    ids: list[str | None] = [None]
    for number in range(5_000):
        # Mostly near the newest node, as editing is; sometimes anywhere.
        parent = ids[-1] if draw.random() < 0.7 else draw.choice(ids)
        at = draw.randint(max(0, len(plain[parent]) - 6), len(plain[parent]))
        tokens = [letter(draw.randrange(26)) for _ in range(draw.randrange(4))]
        id = f"n{number}"
        if draw.random() < 0.3:
            tree.add(Added(id, parent, at, "model"))
            for index, token in enumerate(tokens):
                tree.extend(id, index, (token,))
        else:
            tree.add(Added(id, parent, at, "user", tokens=tuple(tokens)))
        plain[id] = plain[parent][:at] + tokens
        ids.append(id)
        seen = draw.choice(ids)
        assert tree.path(seen) == plain[seen]
        assert tree.length(seen) == len(plain[seen])
        cut = draw.randint(0, len(plain[seen]))
        assert tree.path(seen, cut) == plain[seen][:cut]
        place = tree.resolve(seen, cut)
        assert tree.path(*place) == plain[seen][:cut]
        assert place.node is None or tree[place.node].at < cut

    assert not tree.warnings
    for id in draw.sample(ids, 100):
        pieces = tree.chain(id)
        assert [token for piece in pieces for token in piece.tokens] == plain[id]


def test_a_path_may_be_as_deep_as_it_likes() -> None:
    tree = Tree()
    for number in range(20_000):
        tree.add(
            Added(
                f"n{number}",
                f"n{number - 1}" if number else None,
                number,
                "user",
                tokens=(letter(0),),
            )
        )
    assert len(tree.path("n19999")) == 20_000
    assert tree.resolve("n19999", 1) == Place("n0", 1)
    assert tree.is_shown("n19999")


def test_siblings_share_a_fork_however_it_is_said() -> None:
    tree = Tree()
    grown(tree, "root", None, 0, "abcd")
    grown(tree, "left", "root", 2, "x")
    grown(tree, "under", "left", 2, "y")
    grown(tree, "right", "left", 3, "z")

    assert tree["under"].parent == "root"
    assert tree.siblings("left") == ["left", "under"]
    assert tree.children("root") == ["left", "under"]
    assert tree["right"].parent == "left"
    tree["left"].hidden = True
    assert tree.siblings("under") == ["under"]
    assert not tree.is_shown("right")


def test_an_unknown_parent_leaves_a_visible_gap_and_true_offsets() -> None:
    tree = Tree()
    grown(tree, "child", "lost", 3, "abc")
    grown(tree, "grandchild", "child", 5, "X")

    assert text_of(tree.path("grandchild")) == "\ufffdabX"
    assert tree["lost"].gaps == [(0, 3)]
    assert tree["lost"].parent is None
    assert any("lost" in warning for warning in tree.warnings)

    grown(tree, "lost", None, 0, "123")
    assert text_of(tree.path("grandchild")) == "123abX"


def test_cycles_and_absurd_offsets_end_at_the_root() -> None:
    tree = Tree()
    grown(tree, "self", "self", 9, "s")
    grown(tree, "a", "b", 1, "a")
    grown(tree, "b", "a", 1, "b")
    grown(tree, "far", "self", 2**40, "f")
    grown(tree, "beyond", "nobody", 2**40, "g")

    for id in tree.nodes:
        assert tree.path(id) == [token for piece in tree.chain(id) for token in piece.tokens]
    assert text_of(tree.path("far")) == "sf"
    assert tree.length("beyond") == 2
    assert tree.warnings


def test_lost_steps_of_a_generation_leave_a_gap_and_repeated_ones_nothing() -> None:
    tree = Tree()
    tree.add(Added("m", None, 0, "model"))
    assert tree.extend("m", 0, (letter(0), letter(1))) == 2
    assert tree.extend("m", 1, (letter(9), letter(2))) == 1
    assert tree.extend("m", 0, (letter(9),)) == 0
    assert tree.extend("m", 5, (letter(3),)) == 1

    assert text_of(tree.path("m")) == "abc\ufffdd"
    assert tree["m"].tokens[3] == GAP
    assert tree["m"].gaps == [(3, 2)]


def test_a_path_read_before_grows_with_its_node() -> None:
    tree = Tree()
    tree.add(Added("m", None, 0, "model"))
    grown(tree, "other", None, 0, "zz")
    for index in range(50):
        tree.extend("m", index, (letter(index),))
        assert len(tree.path("m")) == index + 1
        assert text_of(tree.path("other")) == "zz"
    grown(tree, "child", "m", 10, "!")
    tree.extend("m", 50, (letter(0),))
    assert text_of(tree.path("child")) == "abcdefghij!"


def test_weighing_keeps_the_text() -> None:
    tree = Tree()
    grown(tree, "n", None, 0, "abc")
    tree.path("n")
    tree.weigh("n", 1, (-0.5, None, -3.0))

    assert [token.logprob for token in tree.path("n")] == [None, -0.5, None]
    assert text_of(tree.path("n")) == "abc"


@settings(deadline=None, max_examples=80)
@given(st.lists(st.binary(max_size=3) | st.sampled_from(["é".encode(), "🙂".encode(), b"ab"])))
def test_a_layouts_text_is_the_decoded_bytes(cuts: list[bytes]) -> None:
    layout = Layout()
    for place, cut in enumerate(cuts):
        layout.extend([Token(place, cut)])
    whole = b"".join(cuts).decode("utf-8", "replace")

    assert layout.text == whole
    assert layout.size == len(whole)
    assert layout.starts == sorted(layout.starts)
    spans = [layout.span(index) for index in range(len(cuts))]
    assert "".join(whole[start:stop] for start, stop in spans) == whole
    for offset in range(len(whole)):
        start, stop = layout.span(layout.token(offset))
        assert start <= offset < stop
    assert layout.token(len(whole)) == len(cuts)


def test_a_character_in_pieces_belongs_to_its_first_token() -> None:
    face = "🙂".encode()
    layout = Layout([Token(1, b"a" + face[:1]), Token(2, face[1:3]), Token(3, face[3:] + b"b")])

    assert [layout.span(index) for index in range(3)] == [(0, 2), (2, 2), (2, 3)]
    assert [layout.token(offset) for offset in range(4)] == [0, 0, 2, 3]
    assert [layout.boundary(offset) for offset in range(4)] == [0, 3, 3, 3]


def test_folded_tokens_have_a_place_and_no_characters() -> None:
    layout = Layout([Token(1, b"ab")])
    layout.extend([Token(2, b"<|im_end|>"), Token(3, b"\n")], folded=True)
    layout.extend([Token(4, b"cd")])

    assert layout.text == "abcd"
    assert [layout.token(offset) for offset in range(4)] == [0, 0, 3, 3]
