"""The book's sources: ``data/references.toml``, which people write, as a page that chapters link to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import expect
from .claims import LEDGER, rows_of

REFERENCES = LEDGER.with_name("references.toml")
KEY = re.compile(r"[a-z]+(\d{4}[a-z]?)?")  # the document has no year


@dataclass(frozen=True)
class Reference:
    """One source. Raises Refusal, naming its key, when it is not a whole one.

    key: the first author's family name and the year, in small letters. cited_as: as texts name it.
    where: it was published. url: "" where we are not sure of one. looked_up: when, and where its
    authors, title and year were found. says: what the book uses of it, in our words.
    """

    key: str
    cited_as: str
    authors: str
    title: str
    where: str
    looked_up: str
    says: str
    url: str = ""

    def __post_init__(self) -> None:
        expect(KEY.fullmatch(self.key), "key", "a name and a year, such as guo2017", self.key)
        for name in ("cited_as", "title", "looked_up", "says"):
            expect(getattr(self, name), f"{self.key}: {name}", "some text", getattr(self, name))
        address = not self.url or self.url.startswith("https://")
        expect(address, f"{self.key}: url", "https://...", self.url)


def references(path: Path = REFERENCES) -> dict[str, Reference]:
    """All sources by key, in the order of the file. Raises Refusal, naming what is wrong."""
    return rows_of(path, "reference", "key", lambda row: Reference(**row))


def cited(key: str) -> str:
    """A link to a source, as a page of the book writes it."""
    return f"[{references()[key].cited_as}](references.ipynb#{key})"


def entries(rows: Iterable[Reference]) -> list[str]:
    """Markdown, a source each, with an anchor of its key."""
    texts = []
    for r in rows:
        title = f"[{r.title}]({r.url})" if r.url else r.title
        about = ". ".join(part for part in (r.authors.rstrip("."), title, r.where) if part)
        texts.append(f'<a id="{r.key}"></a>**{r.cited_as}.** {about}. {r.says}')
    return texts
