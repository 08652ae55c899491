"""The bug zoo: mistakes that are easy to make and train without complaint, as one-line changes.

A bug is a change of text in one function of the package, and the laws (``tests/laws.py``) that notice
it. ``test_bugs.py`` makes each change, sees the laws break, and takes the change back. Most were met in
the wild: in published code, in forum questions, in the first drafts of this package.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import laws

from sar_minimal import (
    algorithm1,
    attention,
    autoregressive,
    blocks,
    data,
    decoding,
    lengths,
    losses,
    masked,
    shift,
    shifted,
    speculation,
    training,
    transition,
)
from sar_minimal.lab import runs, stored
from sar_minimal.tasks import files


@dataclass(frozen=True)
class Bug:
    """name; what goes wrong, for the reader; the function it sits in; {right text: wrong text}; the laws
    that notice, each with its argument if it has one; what they raise."""

    name: str
    story: str
    where: Callable
    change: dict[str, str]
    caught_by: tuple[tuple, ...]
    raises: type[Exception] = AssertionError

    def release(self, patch) -> None:
        """Put the bug into the package, until ``patch`` (pytest's monkeypatch) is undone.

        The function keeps its identity and gets other code, so that everyone who imported it has the bug.
        """
        function = inspect.unwrap(self.where)
        source = textwrap.dedent(inspect.getsource(function))
        for right, wrong in self.change.items():
            if source.count(right) != 1:
                raise LookupError(
                    f"{self.name}: expected {right!r} once in {function.__qualname__}, found it "
                    f"{source.count(right)} times; the package has moved on, so should the bug"
                )
            source = source.replace(right, wrong)
        made = {}
        exec(compile(source, f"<{self.name}>", "exec"), function.__globals__, made)
        mutant = inspect.unwrap(made[function.__name__])
        patch.setattr(function, "__code__", mutant.__code__)
        patch.setattr(function, "__defaults__", mutant.__defaults__)


BUGS = [
    # ------------------------------------------------------------ the shift and the losses
    Bug(
        "double shift",
        "The targets are shifted, then the loss shifts them again: the model learns to skip a token.",
        losses._cross_entropy,
        {"shifted_targets(tokens, k)": "shifted_targets(tokens, k + 1)"},
        ((laws.one_loss_in_three,), (laws.losses_read_their_own_row, "sum"), (laws.first_term,)),
    ),
    Bug(
        "input shifted twice",
        "The input is read two steps later: the token just before the target is never seen.",
        autoregressive.teacher_forced_loss,
        {"shift_right(batch.y, START)": "shift_right(shift_right(batch.y, START), START)"},
        ((laws.training_is_scoring, "ar"), (laws.training_is_scoring, "lm")),
    ),
    Bug(
        "input not shifted",
        "The input is the target itself: the loss falls to 0, the model has learnt to copy.",
        autoregressive.teacher_forced_loss,
        {"y_in = shift_right(batch.y, START)": "y_in = batch.y.clamp(min=0)"},
        ((laws.training_is_scoring, "ar"), (laws.training_is_scoring, "lm")),
    ),
    Bug(
        "shift the wrong way",
        "The input is read one step *earlier*, so each position sees the token after its target.",
        shift.shift_right,
        {"(start, tokens[:, :-1])": "(tokens[:, 1:], start)"},
        (
            (laws.shift_moves_one_step,),
            (laws.both_codings_are_one,),
            (laws.training_is_scoring, "ar"),
        ),
    ),
    Bug(
        "targets of the next row",
        "A shift on the flattened batch: the last target of a row is the first token of the next.",
        shift.shifted_targets,
        {
            "tokens.gather(1, source.clamp(max=T - 1))": "tokens.flatten()[(source + T * torch.arange("
            "B)[:, None]) % (B * T)]",
            "source >= T": "source < 0",
        },
        (
            (laws.shift_moves_one_step,),
            (laws.losses_read_their_own_row, "sum"),
            (laws.one_loss_in_three,),
        ),
    ),
    Bug(
        "start = pad",
        "The input begins with <pad> in training and with <s> in decoding.",
        autoregressive.teacher_forced_loss,
        {"shift_right(batch.y, START)": "shift_right(batch.y, 0)"},
        ((laws.training_is_scoring, "ar"), (laws.training_is_scoring, "lm")),
    ),
    Bug(
        "pad in the loss",
        "Padding is a target like any other: the model is mostly trained to say <pad>.",
        losses._cross_entropy,
        {"targets.reshape(-1), ignore": "targets.reshape(-1).clamp(min=0), ignore"},
        (
            (laws.losses_read_their_own_row, "sum"),
            (laws.padding_changes_no_loss, "ar"),
            (laws.padding_changes_no_loss, "sar-full-2-vocabulary"),
        ),
    ),
    Bug(
        "mean over padding too",
        "The sum skips padding and the divisor does not: short rows count for less.",
        losses._cross_entropy,
        {
            "reduction=reduction\n    )\n    return": 'reduction="none" if reduction == "mean" else reduction\n'
            '    )\n    if reduction == "mean":\n        return loss.mean()\n    return',
        },
        (
            (laws.losses_read_their_own_row, "mean"),
            (laws.padding_changes_no_loss, "lm"),
            (laws.one_loss_in_three,),
        ),
    ),
    # ------------------------------------------------------------ masks
    Bug(
        "leaking mask",
        "The causal mask is off by one: each position sees the next one, which is its target.",
        attention.causal_mask,
        {"tril(past - strict)": "tril(past - strict + 1)"},
        (
            (laws.causality, "lm"),
            (laws.causality, "ar"),
            (laws.causality, "sar-causal-2-vocabulary"),
            (laws.causality, "sar-causal-1-copy"),
            (laws.cached_is_uncached, "lm"),
            (laws.sums_to_one, "ar"),
            (laws.shifted_product_sums_to_V,),
            (laws.masks_are_their_definition,),
        ),
    ),
    Bug(
        "strict mask not strict",
        "The query stream sees the position it is to predict (XLNet's two streams, undone).",
        attention.causal_mask,
        {"tril(past - strict)": "tril(past)"},
        ((laws.masks_are_their_definition,), (laws.nothing_to_look_at_is_zero,)),
    ),
    Bug(
        "every mask strict",
        "Each position is blind to its own input, the newest that it may read.",
        attention.causal_mask,
        {"tril(past - strict)": "tril(past - 1)"},
        (
            (laws.causality, "sar-causal-2-copy"),
            (laws.masks_are_their_definition,),
            (laws.cached_is_uncached, "lm"),
        ),
    ),
    Bug(
        "CQA without its mask",
        "All layers are causal and the last step, content-query attention, is not.",
        algorithm1.DualStreamSAR.forward,
        {
            "query + self.cqa(content, query, turn, mask)": "query + self.cqa(content, query, turn, None)",
            "self.cqa.scores(content, query, turn, mask)": "self.cqa.scores(content, query, turn, None)",
        },
        (
            (laws.causality, "sar-causal-2-vocabulary"),
            (laws.causality, "sar-causal-2-copy"),
            (laws.copying_needs_the_original, "sar-causal-2-copy"),
            (laws.padding_changes_no_logits, "sar-full-2-vocabulary"),
        ),
    ),
    Bug(
        "padding mask off by one",
        "The first position after the end of a row is read.",
        attention.padding_mask,
        {"device) < lengths": "device) <= lengths"},
        (
            (laws.masks_are_their_definition,),
            (laws.padding_changes_no_logits, "sar-full-2-vocabulary"),
            (laws.padding_changes_no_logits, "ar"),
            (laws.padding_changes_no_decoding, "ar"),
        ),
    ),
    Bug(
        "padding of the source read",
        "The encoder is masked, the decoder's attention to it is not.",
        autoregressive.EncoderDecoderAR.encode,
        {"layer.memory(h, turn, mask)": "layer.memory(h, turn, None)"},
        (
            (laws.padding_changes_no_logits, "ar"),
            (laws.padding_changes_no_loss, "ar"),
            (laws.padding_changes_no_decoding, "ar"),
        ),
    ),
    Bug(
        "softmax over the wrong axis",
        "The weights of each *source* position sum to 1, not those of each question.",
        algorithm1.DualStreamSAR._copy,
        {"scores.softmax(-1)": "scores.softmax(1)"},
        ((laws.copying_needs_the_original, "sar-full-2-copy"),),
    ),
    # ------------------------------------------------------------ positions and the cache
    Bug(
        "positions restart",
        "With a cache each new token is at position 0 again. The text stays fluent, and worse.",
        autoregressive.Autoregressive.step,
        {"turns.narrow(3, cache.used, T)": "turns.narrow(3, 0, T)"},
        (
            (laws.cached_is_uncached, "lm"),
            (laws.cached_is_uncached, "ar"),
            (laws.parallel_scoring, "ar"),
        ),
    ),
    Bug(
        "cache position off by one",
        "A cached token is placed one position too early.",
        autoregressive.Autoregressive.step,
        {"turns.narrow(3, cache.used, T)": "turns.narrow(3, max(cache.used - 1, 0), T)"},
        (
            (laws.cached_is_uncached, "lm"),
            (laws.cached_is_uncached, "ar"),
            (laws.parallel_scoring, "lm"),
        ),
    ),
    Bug(
        "cached past hidden",
        "The mask of a cached piece forgets that all of the past is visible.",
        autoregressive.Autoregressive.step,
        {
            "causal_mask(T, past=cache.used, device=tokens.device) if T > 1 else None": "causal_mask(T + "
            "cache.used).narrow(0, 0, T) if T > 1 else None"
        },
        ((laws.cached_is_uncached, "lm"), (laws.cached_is_uncached, "ar")),
    ),
    Bug(
        "values turned too",
        "Rotary positions are for queries and keys; turned values make position part of the content.",
        attention.rotations,
        {"torch.zeros_like(angles)": "angles"},
        ((laws.values_are_not_turned,),),
    ),
    Bug(
        "absolute angle",
        "Keys turn the other way, so that the product depends on t + s instead of t - s.",
        attention.rotations,
        {"(angles, angles, ": "(angles, -angles, "},
        ((laws.rotary_is_relative,),),
    ),
    Bug(
        "angles kept from inference mode",
        "Angles are made once; made while decoding, they break the training that follows.",
        attention.heads,
        {
            "H: int)": "H: int, kept={})",
            " * turn\n": " * kept.setdefault((turn.shape, turn.storage_offset()), 1 * turn)\n",
        },
        ((laws.decoding_leaves_no_trace, "lm"), (laws.decoding_leaves_no_trace, "ar")),
        raises=RuntimeError,
    ),
    # ------------------------------------------------------------ decoding
    Bug(
        "output read back",
        "One pass becomes two: what was predicted is corrected by reading it, and the text says one.",
        algorithm1.given_x,
        {
            "model(x, None if lengths is None else own, trusted=True)": "model(model(x, lengths).argmax(-1), lengths)"
        },
        (
            (laws.one_pass_reads_no_output, "sar-causal-2-vocabulary"),
            (laws.one_pass_reads_no_output, "sar-full-2-vocabulary"),
        ),
    ),
    Bug(
        "beam: all alike",
        "All beams start alive and equal, so they stay equal: a wide beam is a slow greedy.",
        decoding.beam,
        {"(B * K,), -math.inf": "(B * K,), 0.0"},
        ((laws.widest_beam_is_exhaustive, "lm"), (laws.widest_beam_is_exhaustive, "ar")),
    ),
    Bug(
        "beam: cache left behind",
        "Beams change places and their caches do not: each goes on from another's past.",
        decoding.beam,
        {"state.cache.reorder(parent)": "pass"},
        (
            (laws.widest_beam_is_exhaustive, "lm"),
            (laws.widest_beam_is_exhaustive, "ar"),
            (laws.parallel_scoring, "lm"),
        ),
    ),
    Bug(
        "beam: tokens left behind",
        "Beams change places and their tokens do not.",
        decoding.beam,
        {"= tokens[parent], log_probs[parent],": "= tokens, log_probs,"},
        ((laws.widest_beam_is_exhaustive, "lm"), (laws.parallel_scoring, "ar")),
    ),
    Bug(
        "beam: ends left behind",
        "Beams change places and where they ended does not: some go on after their end.",
        decoding.beam,
        {"log_probs[parent], rows.stop[parent]": "log_probs[parent], rows.stop"},
        ((laws.end_stops_a_beam, "lm"), (laws.end_stops_a_beam, "ar")),
    ),
    Bug(
        "beam: source left behind",
        "The cache follows the beams and the source does not.",
        autoregressive.State.reorder,
        {"(kv[:, rows], ": "(kv[:, rows // 2], "},
        ((laws.widest_beam_is_exhaustive, "ar"), (laws.parallel_scoring, "ar")),
    ),
    Bug(
        "prompt overwritten",
        "In a batch of prompts the short ones end first, and the long ones are written over.",
        decoding._generate,
        {"(t < rows.before) | (t >= rows.stop)": "t >= rows.stop"},
        ((laws.padding_changes_no_decoding, "lm"),),
    ),
    Bug(
        "temperature upside down",
        "Multiplied where it should divide: hotter is more certain.",
        decoding.sample,
        {"/ temperature).softmax": "* temperature).softmax"},
        ((laws.samples_follow_p, "temperature"),),
    ),
    Bug(
        "seed ignored",
        "Tokens are drawn from the global random state, whatever generator is given.",
        decoding.sample,
        {", generator=generator)": ")"},
        ((laws.a_generator_is_a_sample, "ar"), (laws.a_generator_is_a_sample, "lm")),
    ),
    Bug(
        "top k + 1",
        "One token too many may be drawn.",
        decoding.sample,
        {"log_probs.topk(top_k)": "log_probs.topk(top_k + 1)"},
        ((laws.samples_follow_p, "top_k"), (laws.padding_changes_no_decoding, "lm")),
    ),
    Bug(
        "end never comes",
        "The end token is looked for in the prompt's positions only.",
        decoding.Rows.end,
        {"(t >= self.before)": "(t < self.before)"},
        ((laws.end_stops_a_row, "ar"), (laws.end_stops_a_row, "lm")),
    ),
    Bug(
        "dropout while decoding",
        "The model answers differently each time.",
        blocks.Block._drop,
        {"if self.training and self.dropout": "if self.dropout"},
        ((laws.training_is_scoring, "ar"), (laws.training_is_scoring, "lm")),
    ),
    # ------------------------------------------------------------ parallel decoding
    Bug(
        "cache: a gap that nobody wrote",
        "A short row ends, the slowest that is left is far ahead, and the pass reads on from there: what lies "
        "between was never written, and holds what the memory held before.",
        speculation.Guesses.score,
        {"min(cache.used, first - 1)": "cache.used and first - 1"},
        (
            (laws.nothing_is_read_that_was_not_written, "jacobi"),
            (laws.nothing_is_read_that_was_not_written, "draft_and_verify"),
        ),
    ),
    Bug(
        "convert: y for x",
        "A source is looked up by the length of its text: right where both are equally long, and lost elsewhere.",
        data.convert,
        {"found[tuple(x[:S])]": "found[tuple(x[:T])]"},
        ((laws.a_split_comes_back_in_its_order,),),
        raises=KeyError,
    ),
    Bug(
        "jacobi: a pass too few",
        "The last guess is taken for right before a pass has left it as it was.",
        speculation.jacobi,
        {"(first := g.first) < g.longest": "(first := g.first) < g.longest - 1"},
        ((laws.jacobi_is_greedy, "lm"), (laws.jacobi_is_greedy, "ar")),
    ),
    Bug(
        "jacobi: trusted too early",
        "The token behind the first that changed is taken for right: its past has just changed.",
        speculation.Guesses.fix,
        {"first + holds + 1)": "first + holds + 2)"},
        ((laws.jacobi_is_greedy, "lm"), (laws.jacobi_is_greedy, "ar")),
    ),
    Bug(
        "speculation: guess stays in the cache",
        "The cache is set back to one position too late: a guess that was turned down is still read.",
        speculation.Guesses.score,
        {"min(cache.used, first - 1)": "min(cache.used, first)"},
        ((laws.verified_draft_is_greedy, "lm"), (laws.verified_draft_is_greedy, "ar")),
        raises=RuntimeError,  # a step later the cache has no room
    ),
    Bug(
        "speculation: one kept too many",
        "The first guess that is turned down is kept, and the one behind it replaced.",
        speculation._judge,
        {"== first + holds[:, None]": "== first + 1 + holds[:, None]"},
        (
            (laws.verified_draft_is_greedy, "ar"),
            (laws.speculation_is_exact, "one pass"),
            (laws.speculation_follows_p, "draws"),
        ),
    ),
    Bug(
        "speculation: q / p",
        "A guess is kept the more often the less the model likes it.",
        speculation.acceptance,
        {"p / q": "q / p"},
        (
            (laws.acceptance_keeps_p,),
            (laws.speculation_is_exact, "draws"),
            (laws.speculation_follows_p, "one pass"),
        ),
    ),
    Bug(
        "speculation: drawn again from p",
        "After a guess was turned down the next is drawn from p, not from what is left of it: what the "
        "draft likes comes too often.",
        speculation.acceptance,
        {"(p - q).clamp(min=0.0)": "p"},
        (
            (laws.acceptance_keeps_p,),
            (laws.speculation_is_exact, "insists"),
            (laws.speculation_follows_p, "one pass"),
        ),
    ),
    Bug(
        "speculation: rest not normalised",
        "What is left of p is no distribution: it sums to less than 1.",
        speculation.acceptance,
        {"rest / total, p)": "rest, p)"},
        ((laws.acceptance_keeps_p,),),
    ),
    Bug(
        "speculation: tested twice",
        "A row that is ahead of its batch has its tokens tested again, and loses those the draft likes.",
        speculation._judge,
        {"(fixed | kept.bool())": "kept.bool()"},
        ((laws.speculation_follows_p, "one pass"),),
    ),
    Bug(
        "mask-predict: the certain said again",
        "The tokens that the model is most sure of are hidden, the doubtful ones stay.",
        masked.mask_predict,
        {"certain = log_probs": "certain = -log_probs"},
        ((laws.least_certain_are_said_again,),),
    ),
    Bug(
        "masked: shown tokens trained on",
        "The loss counts the tokens that the model sees: it learns to copy them.",
        masked.hide,
        {"batch.y.masked_fill(~hidden, IGNORE)": "batch.y"},
        ((laws.masked_loss_asks_for_what_it_hides,),),
    ),
    # ------------------------------------------------------------ a chain over one pass
    Bug(
        "a chain through the padding",
        "The messages of a short row begin where the longest row ends: its neighbours in the batch decide.",
        transition.Chain.ahead,
        {".masked_fill(self.past_end[:, t + 1, None], 0.0)": ""},
        ((laws.padding_changes_no_loss, "transition"),),
    ),
    Bug(
        "sums where the best is asked for",
        "Viterbi with the messages of the sum: each token is the likeliest after the last, not part of the best.",
        transition.Chain.best,
        {"self.ahead(torch.amax)": "self.ahead()"},
        ((laws.best_of_a_chain_is_exhaustive,),),
    ),
    Bug(
        "the matrix turned round",
        "M is read as [next, last]: it learns that way round too, until the decoder reads it the other way.",
        transition.Chain.log_probs,
        {"gather(2, rows).gather(3, b)": "mT.gather(2, rows).gather(3, b)"},
        ((laws.chain_sums_over_every_y,), (laws.best_of_a_chain_is_exhaustive,)),
    ),
    # ------------------------------------------------------------ y of another length
    Bug(
        "the blank is <pad>",
        "CTC's blank is 0 by default, and 0 is <pad> here: silence and a token change places.",
        lengths.ctc_loss,
        {'model.blank_id, "none"': 'PAD, "none"'},
        ((laws.ctc_sums_every_way,),),
    ),
    Bug(
        "places not counted u times",
        "The loss reads the first S of the u S places: the rest are never trained, and are decoded.",
        lengths.ctc_loss,
        {"targets, places, T": "targets, batch.x_lengths, T"},
        ((laws.ctc_sums_every_way,),),
    ),
    Bug(
        "blanks go first",
        "Blanks are dropped and then neighbours merged: no word has a double letter any more.",
        lengths.collapse,
        {
            "shift_right(way, blank_id)": "shift_right(way.gather(1, torch.where(way == blank_id, 0, torch.arange(N)).cummax(1)[0]), blank_id)"
        },
        ((laws.a_blank_keeps_equal_tokens_apart,),),
    ),
    Bug(
        "the length costs nothing",
        "The loss has the tokens and not T: they are trained on true lengths, and the length is guessed.",
        lengths.length_loss,
        {"each = each + F.pad": "F.pad"},
        ((laws.lengths_and_tokens_sum_to_one,),),
    ),
    Bug(
        "stretched to the longest",
        "x is stretched to the batch's longest T, and cut: its batch-mates decide what a row reads.",
        lengths.uniform_copy,
        {"// T[:, None])": "// T.max())"},
        ((laws.unequal_lengths_change_nothing, "length"),),
    ),
    Bug(
        "dropout at rest",
        "Dropout goes on after training: the same sentence is decoded differently each time.",
        blocks.Block._drop,
        {"if self.training and self.dropout": "if self.dropout"},
        ((laws.decoders_do_not_drop, "one_pass"), (laws.decoders_do_not_drop, "greedy")),
    ),
    Bug(
        "room for what nobody reads",
        "The cache has a place for the last token too: a text of max_length tokens is refused.",
        autoregressive.EncoderDecoderAR.start,
        {"self.new_state(len(x), most,": "self.new_state(len(x), 1 + most,"},
        ((laws.decoders_do_not_drop, "greedy"), (laws.decoders_do_not_drop, "jacobi")),
        raises=ValueError,
    ),
    Bug(
        "half of the digits",
        "One decoder keeps its nats in float32, whatever the model computes in; the others do not.",
        decoding.Rows.room,
        {"torch.promote_types(self.model.embed.dtype, torch.float32)": "torch.float32"},
        ((laws.decoders_do_not_drop, "beam"), (laws.decoders_do_not_drop, "draft_and_verify")),
    ),
    # ------------------------------------------------------------ training
    Bug(
        "answer as question",
        "Algorithm 1 is fed y where it should read x: it learns the task at once, and nothing.",
        algorithm1.one_pass_loss,
        {
            "model(batch.x, batch.lengths), batch.y": "model(batch.y.clamp(min=0), batch.lengths), batch.y"
        },
        ((laws.y_is_no_input, "sar-causal-2-vocabulary"), (laws.y_is_no_input, "sar-full-2-copy")),
    ),
    Bug(
        "optimiser forgotten",
        "A resumed run begins with empty averages in AdamW: a bump in the loss, at every stop.",
        runs.Run._set,
        {"self.optimizer.load_state_dict(state)": "pass"},
        ((laws.resume_is_exact, "sar"),),
    ),
    Bug(
        "random state forgotten",
        "A resumed run draws other dropout than the one that never stopped.",
        runs.Run._set,
        {"torch.set_rng_state(tensors": "(tensors"},
        ((laws.resume_is_exact, "ar"),),
    ),
    Bug(
        "done without its weights",
        "A run that stopped behind its last checkpoint is called done, and has no weights, or old ones.",
        runs.Run.begin,
        {"stored.save(self.model, self.out, self.about)": "pass"},
        ((laws.a_run_may_end_between_any_two_files, "once"),),
        raises=FileNotFoundError,
    ),
    Bug(
        "checkpoint ahead of the weights",
        "The checkpoint is written before the weights: stopped in between, these are of an earlier step.",
        runs.Run.keep,
        {"first := not checkpoint.exists()": "first := True"},
        ((laws.a_run_may_end_between_any_two_files, "often"),),
    ),
    Bug(
        "same name, other text",
        "A run goes on with a corpus that was edited: what it was trained on may now be in the test.",
        runs.Run._restore,
        {
            '{"set of pairs": self.pairs} | about["identity"]': 'about["identity"] | {"set of pairs": self.pairs}'
        },
        ((laws.other_pairs_are_another_run,),),
    ),
    Bug(
        "damage unnoticed",
        "A bit of the weights has changed on disk; the model is loaded and says other things.",
        stored.check_same,
        {"found != stored": "False"},
        (
            (laws.damage_is_noticed, "model.safetensors"),
            (laws.damage_is_noticed, "checkpoint.safetensors"),
        ),
    ),
    Bug(
        "data from the start",
        "A resumed run reads the first batches again and never the last.",
        training._passes,
        {"skip=step)": "skip=0)"},
        ((laws.resume_is_exact, "lm"), (laws.data_go_on_where_they_stopped,)),
    ),
    Bug(
        "all passes alike",
        "A resumed run takes each pass to have as many batches as the first: with numerals it reads another batch.",
        training._passes,
        {"(recipe.seed, epoch))))": "(recipe.seed, 0))))"},
        ((laws.data_go_on_where_they_stopped,),),
    ),
    Bug(
        "short for longer",
        "A run that stopped among the short pairs counts them from 0 again when it goes on.",
        training.endless,
        {"recipe.short - step)": "recipe.short)"},
        ((laws.resume_is_exact, "sar"),),
    ),
    Bug(
        "file half written",
        "A checkpoint is written over the old one: stopped in between, both are gone.",
        files.write_atomically,
        {
            "os.replace(partial, real)": "path.write_bytes(data[: len(data) // 2]); os.replace(partial, real)"
        },
        ((laws.full_disk_keeps_the_old_file,),),
    ),
    # ------------------------------------------------------------ a shift that is told
    Bug(
        "one shift too far",
        "The input stands a step behind already and the target moves by all of k: at k = 1 a token is skipped.",
        shifted.shifted_loss,
        {"batch.y, shifts - 1, reduction": "batch.y, shifts, reduction"},
        ((laws.shifted_loss_is_what_look_ahead_says,),),
    ),
    Bug(
        "looks ahead from the padding",
        "The guesses are read at the batch's last position, where a short row has only padding.",
        shifted.ShiftedLM.ahead,
        {"check_lengths(lengths, tokens)": "check_lengths(None, tokens)"},
        ((laws.look_ahead_is_its_own_row,),),
    ),
    Bug(
        "the largest shift is never drawn",
        "Shifts are drawn from 0 to K - 1, then 1 is the least: K is never trained, 1 twice as often.",
        shifted.draw_shifts,
        {
            "1 + (torch.rand(len(most)).to(most.device) * most).long()": "(torch.rand(len(most)).to(most.device) * most).long().clamp(min=1)"
        },
        ((laws.shifted_loss_is_what_look_ahead_says,),),
    ),
]
