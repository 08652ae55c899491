"""A trained run as a function from a line of text to a line of text: ``sar decode``."""

import time
from typing import Any

import torch

from ..autoregressive import Autoregressive, DecoderLM
from ..data import SPECIALS, UnknownToken
from ..decoding import beam
from ..errors import Refusal, expect
from ..kinds import kind_of
from ..lengths import LengthSAR
from ..shift import END, START
from ..shifted import ShiftedLM
from ..tasks.passages import clean
from ..tasks.pinyin import parse_pinyin, read_as
from ..tasks.syllables import narrow, shown


class Converter:
    def __init__(self, model, source, target, about, beam=None, new=None):
        self.model, self.source, self.target, self.task = model, source, target, about["name"]
        self.beam, self.new = beam, 20 if new is None else new
        self.characters = self.task in ("pinyin", "numerals")  # written without spaces
        self.language_model = isinstance(model, DecoderLM | ShiftedLM)
        self.digits = about.get("options", {}).get("digits", 8)  # of the longest numeral learned
        self.pinyin = self.task == "pinyin" and not self.language_model
        if beam is not None and not isinstance(model, Autoregressive | LengthSAR):
            lacks = f"a {type(model).__name__} has no prefixes to keep"
            raise Refusal(f"--beam: {lacks}; it is for autoregressive models")
        if new is not None and not isinstance(model, DecoderLM):
            knows = f"a {type(model).__name__} knows by itself how many tokens to make"
            raise Refusal(f"--new: {knows}; it is for language models")
        self.decode(torch.tensor([[START]]))  # the first call of a process starts torch's threads

    def __call__(self, text: str, verbose: bool = False) -> str:
        """Raises ValueError for a token the model does not know, naming it and its neighbours."""
        began = time.perf_counter()
        decoded = self.decode(torch.tensor([self.read(text)]))
        line = self.write(decoded.tokens[0, : int(decoded.lengths[0])].tolist())
        if verbose:
            nats, ms = float(decoded.log_probs.sum()), 1e3 * (time.perf_counter() - began)
            line += f"\t{nats:.2f} nats\t{decoded.steps} steps\t{ms:.1f} ms"
        return line

    def read(self, text: str) -> list[int]:
        """A line of input as token ids: of pinyin, of hanzi for a language model, of symbols."""
        if self.pinyin:
            return parse_pinyin(text, self.source)
        text = clean(text) if self.task == "pinyin" else narrow(text)
        tokens = list("".join(text.split())) if self.characters else text.split()
        if not tokens:
            raise Refusal("text: expected at least one token, got an empty line")
        if self.task == "numerals" and not self.language_model:
            number = tokens[0] != "0" and len(tokens) <= self.digits or len(tokens) == 1
            what = f"a number of at most {self.digits} digits, no 0 first"
            expect(number, "text", what, text[:40])
        vocab = self.target if self.language_model else self.source
        for at, token in enumerate(tokens):  # a special is not for users, a long one not to repeat
            if token in SPECIALS or (len(token) > 40 and token not in vocab):
                raise UnknownToken(f"unknown token {shown(token)} at position {at}")
        # A language model begins as in training, where every sequence does so with <s>.
        return [START] * self.language_model + vocab.encode(tokens)

    def read_as(self, text: str) -> str:
        """How pinyin was cut that was typed without all of its spaces; "" where it was not."""
        return read_as(text, self.source) if self.pinyin else ""

    def write(self, ids: list[int]) -> str:
        if self.task == "numerals":
            ids = [i for i in ids if i != END]
        return ("" if self.characters else " ").join(self.target.decode(ids))

    def decode(self, x):
        """x: (1, S). The decoder that fits the model."""
        decode = kind_of(self.model).decode
        options: dict[str, Any] = {}
        if isinstance(self.model, LengthSAR):
            options = {"beam": 1 if self.beam is None else self.beam}
        if isinstance(self.model, Autoregressive):
            ends = self.task == "numerals"  # y has an end token, at most 2 S tokens away
            lm = isinstance(self.model, DecoderLM)
            options = {"new": self.new if lm else 2 * x.shape[1] if ends else None}
            options["end_id"] = END if ends else None
            if self.beam is not None:
                return beam(self.model, x, **options, width=self.beam)
        return decode(self.model, x, **options)
