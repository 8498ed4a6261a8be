"""Trains a causal language model on reviews: from scratch with a new tokenizer, or from a model."""

try:
    from fdpo.programs.train_dpo.sft import main
except KeyboardInterrupt:  # importing takes seconds
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
