"""The pages keep their word: what they say to type works, what they give to copy loads, where they point is something.

Each check is shown to catch a defect that is planted.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pages
import pytest
from conftest import VaultServer
from pages import PAGES, Block, blocks
from test_architecture import ROOT, repository_texts

from rotator.cli import main
from rotator.sandbox.ecgrid import AuthLevel, Form

# Pages that begin with nothing set up; on the others the rotator is there already.
FROM_NOTHING = ("docs/start-here.md", "vault/README.md")
README = ROOT / "README.md"  # has a test of its own
TYPED = [
    page
    for page in PAGES
    if page != README and any(block.plain == "sh run" for block in blocks(page))
]
EVERY = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    """All blocks in one of these languages that are not shown elsewhere."""
    return [one for one in EVERY if one.language in languages and one.shown_by is None]


def named(page: Path) -> str:
    """A page's place in the repository."""
    return str(page.relative_to(ROOT))


def where_of(block: Block) -> str:
    """A block's place in the repository."""
    return block.where


def page_with(tmp_path: Path, text: str) -> Path:
    """A page of that text."""
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


def block_of(tmp_path: Path, kind: str, text: str) -> Block:
    """The only block of a page."""
    (block,) = blocks(page_with(tmp_path, f"Text.\n\n```{kind}\n{text}\n```\n"))
    return block


# what is to be typed


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("page", "form"),
    [
        pytest.param(page, form, id=f"{named(page)}-{form}")
        for page in TYPED
        for form in pages.forms(page)
    ],
)
def test_what_a_page_says_to_type_works(
    page: Path, form: Form, tmp_path: Path, environment: None
) -> None:
    """Each block to be run, in order, in one shell, against OpenBao and the simulator; it prints what is shown."""
    with pages.desk(tmp_path, adopted=named(page) not in FROM_NOTHING, form=form) as desk:
        model = desk.running.ecgrid.simulator
        # A second user for the rotator itself.
        model.add_user(5004, auth_level=AuthLevel.NetworkAdmin)
        if named(page) == "vault/README.md":  # which makes the mount itself
            desk.type("vault secrets disable secret")
        typed = desk.read(page)
        assert typed.code == 0, f"{typed.printed}\n{typed.said}"
        assert pages.faults_of_output(page, typed, form) == []
        assert not re.search(r"\b(warning|denied|Forbidden)\b", typed.said), typed.said
        assert model.violations() == []


@pytest.mark.full
def test_the_first_rotation_goes_as_the_readme_says(tmp_path: Path, environment: None) -> None:
    """Adopted, then rotated once, without a word of warning."""
    with pages.desk(tmp_path, adopted=False) as desk:
        typed = desk.read(README)
        printed = "".join(typed.printed.values())
        shown = re.findall(r"^edi-gateway +(\S+)", printed, re.MULTILINE)
        assert shown == ["would-rotate", "adopted", "rotated", "ok", "in-sync"], typed.said
        assert not re.search("warning|refused|denied", printed + typed.said)
        assert desk.running.ecgrid.simulator.issued(5001) == 1


def test_the_demo_shows_what_the_readme_shows(tmp_path: Path, environment: None) -> None:
    """Line by line and in order, but for numbers; `...` stands for lines that are left out."""
    done = subprocess.run(
        [sys.executable, "-m", "rotator", "demo"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "HOME": os.environ["HOME"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (shown,) = [block for block in blocks(README) if block.kind == "text"]
    assert pages.not_printed(shown.text, done.stdout) == []


def test_what_make_is_told_exists() -> None:
    """Each target that a block names."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [
        name for one in EVERY for name in re.findall(r"^make ([a-z-]+)", one.text, re.MULTILINE)
    ]
    assert "demo" in asked
    assert set(asked) <= set(targets)


def test_every_shell_block_is_typed_somewhere() -> None:
    """Here, on a machine with systemd, or it is named with the test that shows the same."""
    assert [fault for block in of(*pages.SHELL) for fault in pages.faults_of_shell(block)] == []
    assert {page.name for page in TYPED} > {"start-here.md", "operations.md", "cookbook.md"}


def test_what_is_named_as_shown_elsewhere_is_there() -> None:
    """Each entry is for exactly one block, and its test exists."""
    shown = [one for one in EVERY if one.shown_by is not None]
    assert len(shown) == len(pages.ELSEWHERE)
    assert [fault for block in shown for fault in pages.faults_of_shell(block)] == []


@pytest.mark.parametrize("kind", ["sh", "bash", "console", "sh typed", "sh run both"])
def test_a_block_that_nobody_types_is_noticed(tmp_path: Path, kind: str) -> None:
    """Whatever its fence says, if it is not one of the two words."""
    block = block_of(tmp_path, kind, "rotator status")
    assert pages.faults_of_shell(block) == [f"page.md:3: {kind!r} is neither run nor in ELSEWHERE"]


def test_a_command_that_fails_or_shows_a_secret_is_noticed(
    tmp_path: Path, environment: None
) -> None:
    """A misspelt command, a file that is not there, any exit code but 0, a token on the screen."""
    with pages.desk(tmp_path, adopted=False) as desk:
        for planted in ("rotator statsu", "rotator validate nowhere", "false"):
            page = page_with(tmp_path, f"```sh run\n{planted}\necho reached\n```\n")
            typed = desk.read(page)
            assert (typed.code == 0, "reached" in str(typed.printed)) == (False, False)
        page = page_with(tmp_path, '```sh run\ncat "$HOME/.vault-token"\n```\n')
        with pytest.raises(AssertionError, match="prints a secret"):
            desk.read(page)


def test_code_in_the_documents_is_in_fences(tmp_path: Path) -> None:
    """In the README and below docs, what is to be typed or copied says what it is; also within a list."""
    documents = [README, *(page for page in PAGES if named(page).startswith("docs/"))]
    assert [fault for page in documents for fault in pages.faults_of_fences(page)] == []
    page = page_with(tmp_path, "Type this:\n\n    rotator status\n\n- or\n\n  ```sh\n  ls\n  ```\n")
    assert pages.faults_of_fences(page) == ["page.md: code without a fence: rotator status"]
    assert [(block.kind, block.text) for block in blocks(page)] == [("sh", "ls\n")]


def test_output_that_is_not_printed_is_noticed() -> None:
    """A line, a word, or the order; numbers may differ, and `...` stands for anything."""
    printed = "POLICY   OUTCOME\nedi      rotated  7  0.25s\nnightly  rotated  8  0.3s\n"
    assert pages.not_printed("edi rotated 9 1.5s\n", printed) == []
    assert pages.not_printed("edi ... 1.5s\n...\nnightly rotated 0 0.0s\n", printed) == []
    assert pages.not_printed("edi adopted 9 1.5s\n", printed) == ["edi adopted 0 0.0s"]
    assert pages.not_printed("nightly rotated 8 0.3s\nedi rotated 7 0.2s\n", printed) != []


def test_a_block_for_one_form_is_for_no_other(tmp_path: Path) -> None:
    """And what follows it is shown for that form alone; a page without such blocks is typed once."""
    page = page_with(
        tmp_path,
        "```sh run\ntrue\n```\n```text portal\nold\n```\n```text service\nnew\n```\n"
        "```sh run service\nfalse\n```\n",
    )
    assert pages.forms(page) == ("portal", "service")
    assert [block.line for block in pages.blocks_for(page, "portal")] == [1, 4]
    typed = pages.Typed(0, {1: "new\n"}, "")
    assert pages.faults_of_output(page, typed, "service") == []
    assert pages.faults_of_output(page, typed, "portal") == ["page.md:4: not printed: old"]
    assert pages.forms(page_with(tmp_path, "```sh run\ntrue\n```\n")) == ("portal",)
    assert {block.plain for block in EVERY if block.language == "text"} == {"text"}


# what is to be copied


@pytest.mark.parametrize("block", of("yaml"), ids=where_of)
def test_a_policy_in_a_page_is_one(block: Block, tmp_path: Path) -> None:
    """As the loader reads it, with its file's name."""
    assert pages.faults_of_policy(block, tmp_path) == []


@pytest.mark.parametrize(
    "planted", ["user_id: 5001", "user: 5001\nvisibility: Private", "a: [", "visibility: private"]
)
def test_a_policy_that_is_none_is_noticed(tmp_path: Path, planted: str) -> None:
    """Fields that are missing or misspelt, or no YAML at all."""
    assert pages.faults_of_policy(block_of(tmp_path, "yaml", planted), tmp_path) != []


def test_settings_in_a_page_are_settings(tmp_path: Path) -> None:
    """`rotator.toml` and environment files, as the loader reads them."""
    found = []
    for number, block in enumerate(of("toml", "env")):
        check = pages.faults_of_toml if block.language == "toml" else pages.faults_of_environment
        (tmp_path / str(number)).mkdir()
        found += check(block, tmp_path / str(number))
    assert found == []
    assert of("toml")
    assert of("env")


@pytest.mark.parametrize(
    "planted", ["[vault]\nadress = 'x'", "rate = 1", "[ecgrid]\nrate = 'x'", "["]
)
def test_settings_that_are_none_are_noticed(tmp_path: Path, planted: str) -> None:
    """Misspelt, in no table, of another kind, or no TOML at all."""
    assert pages.faults_of_toml(block_of(tmp_path, "toml", planted), tmp_path) != []


@pytest.mark.parametrize(
    "planted",
    [
        "ROTATOR_DEADLIN=2m",
        "ROTATOR_DEADLINE=2",
        "ROTATOR_DEADLINE=2m  # systemd knows no such comment",
    ],
)
def test_an_environment_that_is_none_is_noticed(tmp_path: Path, planted: str) -> None:
    """Misspelt, without a unit, or with a comment where systemd has none."""
    assert pages.faults_of_environment(block_of(tmp_path, "env", planted), tmp_path) != []


@pytest.fixture
def write(vault: VaultServer) -> Callable[[str], object]:
    """Gives Vault a policy and takes it away again."""
    name = f"sys/policies/acl/page-{secrets.token_hex(6)}"

    def write_and_delete(text: str) -> None:
        vault.call("PUT", name, {"policy": text})
        vault.call("DELETE", name)

    return write_and_delete


def test_a_vault_policy_in_a_page_is_accepted(write: Callable[[str], object]) -> None:
    """By a real server."""
    assert of("hcl")
    assert [fault for block in of("hcl") for fault in pages.faults_of_hcl(block, write)] == []


@pytest.mark.parametrize("rule", ['{ capabilities = ["raed"] }', '{ capability = ["read"] }', "{"])
def test_a_vault_policy_that_is_refused_is_noticed(
    tmp_path: Path, write: Callable[[str], object], rule: str
) -> None:
    """A capability or a key that does not exist, or no HCL at all."""
    block = block_of(tmp_path, "hcl", f'path "secret/*" {rule}')
    assert pages.faults_of_hcl(block, write) != []


def test_json_in_a_page_is_json(tmp_path: Path) -> None:
    """What has places to fill in (`json template`) is filled in by tests/test_notify.py."""
    whole = [block for block in of("json") if block.kind == "json"]
    assert whole
    assert [fault for block in whole for fault in pages.faults_of_json(block)] == []
    assert pages.faults_of_json(block_of(tmp_path, "json", "{'a': 1}")) != []


def test_a_block_in_a_language_without_a_check_is_noticed() -> None:
    """So that nothing is given to copy that nobody has tried."""
    checked = {*pages.SHELL, "yaml", "toml", "env", "hcl", "json", "text", "mermaid"}
    others = {(block.language, named(block.page)) for block in EVERY} - {
        (
            "python",
            "docs/notifications.md",
        ),  # an example for the receiver's side; tests/receiver.py does it
        ("python", "docs/how-it-works.md"),  # quoted, as the test below shows
    }
    assert {one for one in others if one[0] not in checked} == set()


# where pages point


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading that it has."""
    assert pages.faults_of_links(page) == []


@pytest.mark.parametrize(
    "planted",
    [
        "[a](nowhere.md)",
        "[a](#nowhere)",
        "[a](page.md#text)",
        "[a]: nowhere.md",
        '<img src="no.svg">',
    ],
)
def test_a_link_to_nowhere_is_noticed(tmp_path: Path, planted: str) -> None:
    """A file or a heading that is not there, however the link is written."""
    page = page_with(tmp_path, f"# Page\n\n## A heading, `code` & more\n\n{planted}\n")
    assert len(pages.faults_of_links(page)) == 1
    fine = (
        "[a](#a-heading-code--more) [b](page.md) [c](https://example.com/nowhere.md) `[d](nowhere)`"
    )
    assert (
        pages.faults_of_links(page_with(tmp_path, f"## A heading, `code` & more\n\n{fine}\n")) == []
    )


def test_every_page_that_is_named_exists() -> None:
    """Also in the code, the units and the manifests: a reader who is sent somewhere arrives."""
    missing = {
        (str(path.relative_to(ROOT)), name)
        for path, text in repository_texts()
        for name in re.findall(r"(?<![\w./-])docs/[\w./-]+\.md", text)
        if not (ROOT / name).is_file()
    }
    assert missing == set()


def test_every_page_can_be_reached_from_the_readme() -> None:
    """By links alone."""
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached:
            reached.add(page)
            todo += [there for there in pages.linked(page) if there.suffix == ".md"]
    assert {named(page) for page in PAGES} - {named(page) for page in reached} == set()


# what pages say of the program


def test_the_pictures_of_the_rotation_have_its_phases() -> None:
    """The table of how-it-works.md names the page's phases, each once, and the diagram shows them."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    page = (ROOT / "rotator" / "rotation" / "page.py").read_text()
    assert sorted(rows) == sorted(set(re.findall(r'Step\("(\w+)"', page)))
    diagram = next(one for one in EVERY if one.language == "mermaid" and "sequence" in one.text)
    for phase in ("observe", "claim", "issue", "stage", "verify", "publish", "settle", "retire"):
        assert re.search(rf": {phase}\b", diagram.text), phase


def test_the_page_and_what_is_due_are_quoted_as_they_are() -> None:
    """Word for word, prose included: whoever reads the document has read the code."""
    quoted = [
        one.text
        for one in EVERY
        if one.language == "python" and named(one.page) == "docs/how-it-works.md"
    ]
    sources = [ROOT / "rotator" / "rotation" / "page.py", ROOT / "rotator" / "due.py"]
    assert [text.strip() for text in quoted] == [path.read_text().strip() for path in sources]


def test_the_command_table_has_every_command_and_the_options_that_it_names() -> None:
    """No command is missing, and none is promised that does not exist."""
    table = (ROOT / "docs" / "commands.md").read_text().partition("\n## ")[0]
    rows = [line.split("` |")[0] for line in table.splitlines() if line.startswith("| `")]
    names = [word for row in rows for word in re.findall(r"`([a-z-]+)", row)]
    assert set(names) == set(main.commands)
    for row in (line for line in table.splitlines() if line.startswith("| `")):
        command = main.commands[row.removeprefix("| `").split()[0].rstrip("`,")]
        options = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", row)) <= options, row
    rest = {option for param in main.params for option in param.opts} | {
        "--json",
        "--quiet",
        "--help",
    }
    after = table.partition("\n\n`--log-level`")[2]
    assert set(re.findall(r"--[a-z-]+", after)) <= rest
