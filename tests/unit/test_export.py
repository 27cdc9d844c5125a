"""A session for others: exact as text, harmless as anything else."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from qwen_tui.session.export import FORMATS, export, heat
from qwen_tui.session.session import Session
from qwen_tui.types import Choice, Emitted, Environment, Finished, Sampling, Token, Trouble

ENV = Environment("e1", "local", {"repo": "Qwen/Qwen2.5-7B"}, dtype="bf16")
HOSTILE = "<script>alert(1)</script>\x1b[31m ```\n# no *heading* \u202e &amp; | x"


@pytest.fixture
def session() -> Session:
    made = Session.new(title="A <b>tale</b> | *two*")
    made.commit(HOSTILE)
    generation, _ = made.start(made.request(Sampling(seed=77)), ENV)
    choice = Choice(2, b"<i>\x07", -3.0)
    made.happen(generation, Emitted((Token(1, b" </pre>", -0.1, (choice,)),)))
    made.happen(generation, Emitted((Token(3, "🙂".encode()[:2], -9.0),), index=1))
    made.happen(generation, Emitted((Token(4, "🙂".encode()[2:], -0.01),), index=2))
    made.happen(generation, Finished("length"))
    made.accept()
    return made


def test_text_is_the_document_byte_for_byte(session: Session) -> None:
    assert export(session, "txt") == (HOSTILE + " </pre>🙂").encode()


def test_folded_tokens_are_in_no_text() -> None:
    session = Session.new()
    session.add_turn(
        "user", (Token(1, b"Hi"),), before=(Token(2, b"<|im_start|>"),), after=(Token(3, b"<|x|>"),)
    )
    assert export(session, "txt") == b"Hi"
    assert b"im_start" not in export(session, "html")
    assert b"## user" in export(session, "md")


def chat_of(*turns: tuple[str, str]) -> Session:
    session = Session.new()
    for role, said in turns:
        fold = (Token(2, b"<|im_end|>"),)
        session.add_turn(role, (Token(1, said.encode()),), before=fold, after=fold)
    return session


def test_a_chat_is_exported_turn_by_turn() -> None:
    session = chat_of(("user", "Hi"), ("assistant", "Hello, you.\n"), ("user", "Bye"))
    assert export(session, "txt") == (b"User:\nHi\n\nAssistant:\nHello, you.\n\nUser:\nBye\n")
    assert export(session, "md").count(b"## user") == 2


@pytest.mark.parametrize("name", ["qwen-tui/local", "Notes (2026): a+b!", "Ünï-cödé.txt"])
def test_a_plain_name_is_not_littered_with_backslashes(name: str) -> None:
    assert f"# {name}\n" in export(Session.new(title=name), "md").decode()


@pytest.mark.parametrize("name", ["https://a.example", "www.a.example", "a@b.example", "a #"])
def test_a_name_never_becomes_a_link_or_markup(name: str) -> None:
    assert f"# {name}\n" not in export(Session.new(title=name), "md").decode()


def test_markdown_keeps_the_document_in_its_fence(session: Session) -> None:
    page = export(session, "md").decode()
    fences = re.findall(r"^`{3,}.*$", page, re.MULTILINE)
    assert fences[0] == "````text"
    assert fences[-1] == "````"
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert page.startswith("# A \\<b\\>tale")
    assert "| Qwen/Qwen2.5-7B | 77 |" in page
    outside = page.split("````text")[0] + page.rsplit("````", 1)[1]
    assert "<script" not in outside


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_page_holds_no_markup_but_its_own(session: Session) -> None:
    data = export(session, "html").decode()
    page = _Page()
    page.feed(data)

    assert set(page.tags) <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "pre", "span", "footer")
    }
    assert "<script>alert(1)</script>" in page.words
    assert " </pre>🙂" in page.words
    assert "\x1b" not in data
    assert "\x07" not in data
    assert any("<i>" in title and "4.98%" in title for title in page.titles)
    assert 'class="m h7"' in data
    assert "default-src 'none'" in data


def test_json_has_every_token(session: Session) -> None:
    found = json.loads(export(session, "json"))
    assert found["text"] == session.text
    tokens = found["parts"][-1]["tokens"]
    assert [token["id"] for token in tokens] == [1, 3, 4]
    assert tokens[1]["hex"] == "f09f"
    assert found["generations"][0]["params"]["seed"] == 77
    assert found["generations"][0]["environment"]["model"] == {"repo": "Qwen/Qwen2.5-7B"}


def test_json_has_every_branch(session: Session) -> None:
    session.undo()
    generation, (other,) = session.start(session.request(Sampling(seed=78)), ENV)
    session.happen(generation, Emitted((Token(9, b" elsewhere", -0.5),)))
    session.happen(generation, Finished("length"))
    session.hide(other)
    found = json.loads(export(session, "json"))
    nodes = {node["id"]: node for node in found["nodes"]}
    assert set(nodes) == set(session.tree.nodes)
    assert nodes[other]["text"] == " elsewhere"
    assert nodes[other]["tokens"][0]["logprob"] == -0.5
    assert nodes[other]["hidden"]
    assert len(found["generations"]) == 2
    assert found["head"] == {"node": session.head.node, "at": session.head.at}


def test_a_model_in_a_folder_goes_by_the_folders_name() -> None:
    session = Session.new()
    session.commit("Once")
    env = Environment("e2", "qwen-tui/local", {"path": "/models/tiny-one"}, dtype="fp32")
    generation, _ = session.start(session.request(Sampling(seed=1)), env)
    session.happen(generation, Emitted((Token(9, b" more", -0.5),)))
    session.accept()
    assert b"| tiny-one | 1 |" in export(session, "md")


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_session_can_be_exported(form: str) -> None:
    assert isinstance(export(Session.new(), form), bytes)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(Trouble, match="docx"):
        export(Session.new(), "docx")


def test_heat_has_eight_classes() -> None:
    assert [heat(value) for value in (0.0, -0.2, -0.5, -1.0, -2.0, -3.0, -5.0, -50.0)] == [
        *range(8)
    ]
