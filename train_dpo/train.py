"""Trains a language model on preference pairs with any f-divergence, and shows what it did."""

from fdpo.programs.train_dpo.train import main

if __name__ == "__main__":
    main()
