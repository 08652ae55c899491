"""A trained run as a function from a line of text to a line of text: ``sar decode``."""

import time
from typing import Any

import torch

from ..autoregressive import Autoregressive, DecoderLM
from ..checks import Refusal
from ..decoding import beam
from ..kinds import kind_of
from ..lengths import LengthSAR
from ..shift import END, START
from ..shifted import ShiftedLM
from ..tasks.pinyin import parse_pinyin


class Converter:
    def __init__(self, model, source, target, about, beam=None, new=None):
        self.model, self.source, self.target, self.task = model, source, target, about["name"]
        self.beam, self.new = beam, 20 if new is None else new
        self.characters = self.task in ("pinyin", "numerals")  # written without spaces
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
        language_model = isinstance(self.model, DecoderLM | ShiftedLM)
        if self.task == "pinyin" and not language_model:
            return parse_pinyin(text, self.source)
        tokens = list("".join(text.split())) if self.characters else text.split()
        if not tokens:
            raise Refusal("text: expected at least one token, got an empty line")
        if language_model:  # as in training, where every sequence begins with <s>
            return [START, *self.target.encode(tokens)]
        return self.source.encode(tokens)

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
