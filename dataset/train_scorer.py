"""Trains a sentiment classifier on labelled reviews: from scratch, or from a checkpoint."""

try:
    from fdpo.programs.dataset.train_scorer import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
