"""Sweep of text training over losses, betas and seeds on the same pairs, with one table."""

from fdpo.programs.train_dpo.sweep import main

if __name__ == "__main__":
    main()
