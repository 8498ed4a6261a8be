"""Trains language models over a grid of losses and other options."""

from fdpo.programs.train_dpo.sweep import main

if __name__ == "__main__":
    main()
