"""Compares a trained model with its reference on openings that it never saw."""

from fdpo.programs.train_dpo.evaluate import main

if __name__ == "__main__":
    main()
