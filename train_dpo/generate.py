"""Prints samples of a language model, drawn from it as it is."""

from fdpo.programs.train_dpo.generate import main

if __name__ == "__main__":
    main()
