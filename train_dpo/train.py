"""Trains a language model on preference pairs with any f-divergence, and compares the result."""

from fdpo.programs.train_dpo.train import main

if __name__ == "__main__":
    main()
