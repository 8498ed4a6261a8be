"""Compares a trained model with its reference on prompts that its training never used."""

try:
    from fdpo.programs.train_dpo.evaluate import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
