"""What a neural model has to beat: n-grams and a word lattice, exact, in numpy.

``NGram`` and ``Lexicon``, the word lattice, are searched exactly (Viterbi), so an error of theirs
is an error of the model, never of the search (section 5). ``WordNGram`` joins them, by a beam.
``rescore`` and ``Reranker`` ask what a network adds to counting, or counting to a network.
"""
