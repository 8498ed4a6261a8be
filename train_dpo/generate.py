"""Prints samples of a language model."""

from fdpo.programs.train_dpo.generate import main

if __name__ == "__main__":
    main()
