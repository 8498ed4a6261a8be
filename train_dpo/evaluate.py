"""Compares a trained model with its reference on prompts that its training never used."""

from fdpo.programs.train_dpo.evaluate import main

if __name__ == "__main__":
    main()
