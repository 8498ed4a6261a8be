"""Trains a language model on preference pairs with any f-divergence, and compares the result."""

try:
    from fdpo.programs.train_dpo.train import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
