"""Trains a causal language model on reviews: from scratch with a new tokenizer, or from a model."""

from fdpo.programs.train_dpo.sft import main

if __name__ == "__main__":
    main()
