"""Trains a causal language model on text, from scratch or from another model."""

from fdpo.programs.train_dpo.sft import main

if __name__ == "__main__":
    main()
