"""Trains a sentiment classifier on labelled reviews: from scratch, or from a checkpoint."""

from fdpo.programs.dataset.train_scorer import main

if __name__ == "__main__":
    main()
