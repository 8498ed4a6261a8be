"""Generation: completions sampled from, searched for in and scored under a language model."""
